// The Go library github.com/zeromicro/go-queue as a peer of the benches: its producer and its consumer as its users write them,
// driven over the standard streams by the line protocol of bench/src/contender.rs.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/zeromicro/go-queue/dq"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/core/stat"
	"github.com/zeromicro/go-zero/core/stores/redis"
)

const tube = "bench"

// asked is what a run was told.
type asked map[string]string

func main() {
	logx.Disable()
	stat.DisableLog()
	fmt.Println("hello", library(), runtime.Version())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		result, err := answer(lines.Text())
		if err != nil {
			fmt.Println("failed", strings.ReplaceAll(err.Error(), "\n", " | "))
			continue
		}
		fmt.Println("done", result)
	}
	// A consumer of the library goes on until its process ends.
	os.Exit(0)
}

// library is the name and the version that this program was built with.
func library() string {
	const path = "github.com/zeromicro/go-queue"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == path {
				return path + " " + module.Version
			}
		}
	}
	return path + " unknown"
}

func answer(line string) (string, error) {
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "run" {
		return "", fmt.Errorf("not understood: %s", line)
	}
	_, variant, found := strings.Cut(words[1], "/")
	if !found {
		return "", fmt.Errorf("a variant is SCENARIO/VARIANT: %s", words[1])
	}
	told := asked{}
	for _, word := range words[2:] {
		name, value, found := strings.Cut(word, "=")
		if !found {
			return "", fmt.Errorf("not a parameter: %s", word)
		}
		told[name] = value
	}
	switch variant {
	case "send":
		return send(told)
	case "drain":
		return drain(told)
	case "lateness":
		return lateness(told)
	case "kq-drain":
		return kqDrain(told)
	case "kafka-go-drain":
		return kafkaGoDrain(told)
	case "kq-push":
		return kqPush(told)
	default:
		return "", fmt.Errorf("no variant %s", variant)
	}
}

func (a asked) number(name string, fallback int64) (int64, error) {
	text, found := a[name]
	if !found {
		return fallback, nil
	}
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s=%s: not a number", name, text)
	}
	return number, nil
}

func (a asked) endpoints() []string { return strings.Split(a["nodes"], ",") }

func (a asked) beanstalks() []dq.Beanstalk {
	var nodes []dq.Beanstalk
	for _, endpoint := range a.endpoints() {
		nodes = append(nodes, dq.Beanstalk{Endpoint: endpoint, Tube: tube})
	}
	return nodes
}

// consume starts the library's consumer. There is no way to end it but the end of the process.
func (a asked) consume(handler dq.Consume) {
	consumer := dq.NewConsumer(dq.DqConf{
		Beanstalks: a.beanstalks(),
		Redis:      redis.RedisConf{Host: a["redis"], Type: redis.NodeType},
	})
	go consumer.Consume(handler)
}

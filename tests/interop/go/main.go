// The programs of the Go library that the tests of interoperation start and kill: a producer, a worker, and one that revokes.
//
//	fleet produce ENDPOINTS TUBE PREFIX COUNT ABREAST MIN_DELAY_MS MAX_DELAY_MS WORK_US
//	fleet work    ENDPOINTS TUBE REDIS
//	fleet revoke  ENDPOINTS TUBE IDS
//
// ENDPOINTS is joined by commas. What they do is written into a journal, in the form of the tests' ledger.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/zeromicro/go-queue/dq"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/core/stat"
)

func main() {
	logx.Disable()
	stat.DisableLog()
	arguments := os.Args[1:]
	if len(arguments) < 3 {
		fail("not understood: %q", arguments)
	}
	nodes := beanstalks(arguments[1], arguments[2])
	switch rest := arguments[3:]; {
	case arguments[0] == "produce" && len(rest) == 6:
		produce(producerOf(nodes), rest[0], numbers(rest[1:]))
	case arguments[0] == "work" && len(rest) == 1:
		work(nodes, rest[0])
	case arguments[0] == "revoke" && len(rest) == 1:
		if err := producerOf(nodes).Revoke(rest[0]); err != nil {
			fail("%v", err)
		}
	default:
		fail("not understood: %q", arguments)
	}
}

func beanstalks(endpoints, tube string) []dq.Beanstalk {
	var nodes []dq.Beanstalk
	for _, endpoint := range strings.Split(endpoints, ",") {
		nodes = append(nodes, dq.Beanstalk{Endpoint: endpoint, Tube: tube})
	}
	return nodes
}

// producerOf makes the cluster producer of the library, which wants two nodes, or the one for a single node.
func producerOf(nodes []dq.Beanstalk) dq.Producer {
	if len(nodes) == 1 {
		return dq.NewProducerNode(nodes[0].Endpoint, nodes[0].Tube)
	}
	return dq.NewProducer(nodes)
}

func numbers(texts []string) []int64 {
	var found []int64
	for _, text := range texts {
		number, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			fail("%v", err)
		}
		found = append(found, number)
	}
	return found
}

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "fleet: "+format+"\n", arguments...)
	os.Exit(1)
}

// franz-go, the fastest Go client of Kafka, as a peer of the benches: a loop as its users write it, driven over the standard
// streams by the line protocol of bench/src/contender.rs.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// asked is what a run was told.
type asked map[string]string

// order is about 95 bytes as JSON, the same as in the benches.
type order struct {
	ID       string `json:"id"`
	Customer string `json:"customer"`
	Text     string `json:"text"`
}

func main() {
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
}

// library is the name and the version that this program was built with.
func library() string {
	const path = "github.com/twmb/franz-go"
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
	case "drain":
		return drain(told)
	case "push":
		return push(told)
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

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// drain reads a topic: poll, decode, mark; what is marked is committed each second.
func drain(told asked) (string, error) {
	messages, err := told.number("messages", 4_000_000)
	if err != nil {
		return "", err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(told["kafka"]),
		kgo.ConsumerGroup(told["group"]),
		kgo.ConsumeTopics(told["topic"]),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(time.Second),
	)
	if err != nil {
		return "", err
	}
	defer client.Close()
	within, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var began time.Time
	var cpu time.Duration
	for ran := int64(0); ran < messages; {
		fetches := client.PollFetches(within)
		if err := fetches.Err(); err != nil {
			return "", fmt.Errorf("%d records came, then: %w", ran, err)
		}
		for records := fetches.RecordIter(); !records.Done(); {
			record := records.Next()
			if ran == 0 {
				began, cpu = time.Now(), cpuTime()
			}
			var one order
			if err := json.Unmarshal(record.Value, &one); err != nil {
				return "", err
			}
			client.MarkCommitRecords(record)
			if ran++; ran == messages {
				break
			}
		}
	}
	wall, cpu := time.Since(began), cpuTime()-cpu
	return fmt.Sprintf("messages=%d wall_ns=%d cpu_ns=%d", messages, wall.Nanoseconds(), cpu.Nanoseconds()), nil
}

// push produces all records without waiting for one before the next, idempotent and acknowledged by all replicas in sync, and
// waits until all are confirmed. With callers each of them waits for each of its records.
func push(told asked) (string, error) {
	messages, err := told.number("messages", 1_000_000)
	if err != nil {
		return "", err
	}
	callers, err := told.number("callers", 0)
	if err != nil {
		return "", err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(told["kafka"]),
		kgo.DefaultProduceTopic(told["topic"]),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.MaxBufferedRecords(100_000),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	)
	if err != nil {
		return "", err
	}
	defer client.Close()
	var failed atomic.Int64
	began, cpu := time.Now(), cpuTime()
	if callers == 0 {
		for n := int64(0); n < messages; n++ {
			record, err := recordOf(n)
			if err != nil {
				return "", err
			}
			client.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
				if err != nil {
					failed.Add(1)
				}
			})
		}
		if err := client.Flush(context.Background()); err != nil {
			return "", err
		}
	} else {
		var next atomic.Int64
		var all sync.WaitGroup
		for range callers {
			all.Add(1)
			go func() {
				defer all.Done()
				for n := next.Add(1) - 1; n < messages; n = next.Add(1) - 1 {
					record, err := recordOf(n)
					if err == nil {
						err = client.ProduceSync(context.Background(), record).FirstErr()
					}
					if err != nil {
						failed.Add(1)
					}
				}
			}()
		}
		all.Wait()
	}
	if failed.Load() > 0 {
		return "", errors.New("some records were not confirmed")
	}
	wall, cpu := time.Since(began), cpuTime()-cpu
	return fmt.Sprintf("messages=%d wall_ns=%d cpu_ns=%d", messages, wall.Nanoseconds(), cpu.Nanoseconds()), nil
}

func recordOf(n int64) (*kgo.Record, error) {
	customer := fmt.Sprintf("customer-%d", n%5000)
	bytes, err := json.Marshal(order{
		ID:       fmt.Sprintf("order-%010d", n),
		Customer: customer,
		Text:     "two books, one lamp, as a gift",
	})
	return &kgo.Record{Key: []byte(customer), Value: bytes}, err
}

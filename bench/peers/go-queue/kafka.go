package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/zeromicro/go-queue/kq"
	"github.com/zeromicro/go-zero/core/service"
)

// order is about 95 bytes as JSON, the same as in the benches.
type order struct {
	ID       string `json:"id"`
	Customer string `json:"customer"`
	Text     string `json:"text"`
}

func (a asked) brokers() []string { return []string{a["kafka"]} }

// counter measures from the first message to the last.
type counter struct {
	wanted int64
	ran    atomic.Int64
	first  sync.Once
	meter  meter
	all    chan struct{}
}

func newCounter(wanted int64) *counter { return &counter{wanted: wanted, all: make(chan struct{})} }

func (c *counter) began() {
	c.first.Do(func() { c.meter = meter{began: time.Now(), cpu: cpuTime()} })
}

func (c *counter) one() {
	if c.ran.Add(1) == c.wanted {
		close(c.all)
	}
}

func (c *counter) figures() (string, error) {
	select {
	case <-c.all:
	case <-time.After(5 * time.Minute):
		return "", fmt.Errorf("%d records, but %d came", c.wanted, c.ran.Load())
	}
	wall, cpu := time.Since(c.meter.began), cpuTime()-c.meter.cpu
	return fmt.Sprintf("messages=%d wall_ns=%d cpu_ns=%d", c.wanted, wall.Nanoseconds(), cpu.Nanoseconds()), nil
}

// kqDrain reads a topic as the library's users write it; the handler decodes. It cannot be stopped before its process ends.
func kqDrain(told asked) (string, error) {
	messages, err := told.number("messages", 4_000_000)
	if err != nil {
		return "", err
	}
	micros, err := told.number("micros", 0)
	if err != nil {
		return "", err
	}
	processors, err := told.number("processors", 8)
	if err != nil {
		return "", err
	}
	count := newCounter(messages)
	queue, err := kq.NewQueue(kq.KqConf{
		ServiceConf: service.ServiceConf{Name: "bench", Mode: service.DevMode},
		Brokers:     told.brokers(),
		Group:       told["group"],
		Topic:       told["topic"],
		Offset:      "first",
		Conns:       1,
		Consumers:   8,
		Processors:  int(processors),
		MinBytes:    10240,
		MaxBytes:    10485760,
		ForceCommit: true,
	}, kq.WithHandle(func(_ context.Context, _, value string) error {
		count.began()
		var one order
		if err := json.Unmarshal([]byte(value), &one); err != nil {
			return err
		}
		if micros > 0 {
			time.Sleep(time.Duration(micros) * time.Microsecond)
		}
		count.one()
		return nil
	}))
	if err != nil {
		return "", err
	}
	go queue.Start()
	return count.figures()
}

// kafkaGoDrain reads a topic with the client under the library: fetch, decode, commit each second.
func kafkaGoDrain(told asked) (string, error) {
	messages, err := told.number("messages", 4_000_000)
	if err != nil {
		return "", err
	}
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers:        told.brokers(),
		GroupID:        told["group"],
		Topic:          told["topic"],
		StartOffset:    kafka.FirstOffset,
		MinBytes:       10240,
		MaxBytes:       10485760,
		CommitInterval: time.Second,
		QueueCapacity:  10_000,
	})
	defer reader.Close()
	count := newCounter(messages)
	failed := make(chan error, 1)
	go func() {
		for n := int64(0); n < messages; n++ {
			message, err := reader.FetchMessage(context.Background())
			if err != nil {
				failed <- err
				return
			}
			count.began()
			var one order
			if err := json.Unmarshal(message.Value, &one); err != nil {
				failed <- err
				return
			}
			if n%1000 == 999 {
				if err := reader.CommitMessages(context.Background(), message); err != nil {
					failed <- err
					return
				}
			}
			count.one()
		}
	}()
	select {
	case err := <-failed:
		return "", err
	case <-count.all:
		return count.figures()
	}
}

// kqPush pushes all records, from so many callers; the clock runs until all of them are in the topic, because nothing else
// tells that they are.
func kqPush(told asked) (string, error) {
	messages, err := told.number("messages", 100_000)
	if err != nil {
		return "", err
	}
	callers, err := told.number("callers", 1)
	if err != nil {
		return "", err
	}
	pusher := kq.NewPusher(told.brokers(), told["topic"])
	began, cpu := time.Now(), cpuTime()
	var next atomic.Int64
	var all sync.WaitGroup
	var failed atomic.Value
	for n := int64(0); n < callers; n++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for {
				n := next.Add(1) - 1
				if n >= messages {
					return
				}
				bytes, err := json.Marshal(orderOf(n))
				if err == nil {
					err = pusher.PushWithKey(context.Background(), fmt.Sprintf("customer-%d", n%5000), string(bytes))
				}
				if err != nil {
					failed.Store(err)
					return
				}
			}
		}()
	}
	all.Wait()
	pushed := time.Since(began)
	if err, ok := failed.Load().(error); ok {
		return "", err
	}
	if err := pusher.Close(); err != nil {
		return "", err
	}
	stored, err := storedIn(told)
	for err == nil && stored < messages && time.Since(began) < 5*time.Minute {
		time.Sleep(time.Millisecond)
		stored, err = storedIn(told)
	}
	if err != nil {
		return "", err
	}
	if stored < messages {
		return "", errors.New("not all records are stored")
	}
	wall := time.Since(began)
	return fmt.Sprintf("messages=%d wall_ns=%d cpu_ns=%d returned_s=%g",
		messages, wall.Nanoseconds(), (cpuTime() - cpu).Nanoseconds(), pushed.Seconds()), nil
}

func orderOf(n int64) order {
	return order{
		ID:       fmt.Sprintf("order-%010d", n),
		Customer: fmt.Sprintf("customer-%d", n%5000),
		Text:     "two books, one lamp, as a gift",
	}
}

// storedIn counts the records of the topic.
func storedIn(told asked) (int64, error) {
	conn, err := kafka.Dial("tcp", told["kafka"])
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	partitions, err := conn.ReadPartitions(told["topic"])
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, partition := range partitions {
		leader, err := kafka.DialLeader(context.Background(), "tcp", told["kafka"], told["topic"], partition.ID)
		if err != nil {
			return 0, err
		}
		low, high, err := leader.ReadOffsets()
		leader.Close()
		if err != nil {
			return 0, err
		}
		sum += high - low
	}
	return sum, nil
}

package main

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeromicro/go-queue/dq"
)

// drain runs a backlog, and ends when the last task has run and no node holds a replica any more.
func drain(told asked) (string, error) {
	messages, err := told.number("messages", 40_000)
	if err != nil {
		return "", err
	}
	micros, err := told.number("micros", 0)
	if err != nil {
		return "", err
	}
	if err := fill(told, messages); err != nil {
		return "", err
	}
	nodes, err := watch(told.endpoints())
	if err != nil {
		return "", err
	}
	var ran atomic.Int64
	all := make(chan struct{})
	m, err := startMeter(told)
	if err != nil {
		return "", err
	}
	told.consume(func([]byte) {
		if micros > 0 {
			time.Sleep(time.Duration(micros) * time.Microsecond)
		}
		if ran.Add(1) == messages {
			close(all)
		}
	})
	select {
	case <-all:
	case <-time.After(2 * time.Minute):
		return "", fmt.Errorf("%d tasks, but %d ran", messages, ran.Load())
	}
	if err := nodes.untilEmpty(time.Minute); err != nil {
		return "", err
	}
	figures, err := m.stop(messages)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s again=%d", figures, ran.Load()-messages), nil
}

// planned is what a task of the lateness bench carries: when it is due, in nanoseconds.
type planned struct {
	Due int64 `json:"due"`
}

// lateness sends tasks that are due within five seconds, and says how late each started.
func lateness(told asked) (string, error) {
	messages, err := told.number("messages", 2000)
	if err != nil {
		return "", err
	}
	var lock sync.Mutex
	var late []float64
	told.consume(func(body []byte) {
		now := time.Now().UnixNano()
		var task planned
		if json.Unmarshal(body, &task) != nil {
			return
		}
		lock.Lock()
		late = append(late, float64(now-task.Due)/1e6)
		lock.Unlock()
	})
	producer := dq.NewProducer(told.beanstalks())
	defer producer.Close()
	m, err := startMeter(told)
	if err != nil {
		return "", err
	}
	began := time.Now()
	for n := int64(0); n < messages; n++ {
		due := began.Add(time.Second + time.Duration(rand.Int63n(int64(5*time.Second))))
		bytes, err := json.Marshal(planned{Due: due.UnixNano()})
		if err != nil {
			return "", err
		}
		if _, err := producer.At(bytes, due); err != nil {
			return "", err
		}
	}
	time.Sleep(time.Until(began.Add(7 * time.Second)))
	figures, err := m.stop(messages)
	if err != nil {
		return "", err
	}
	lock.Lock()
	defer lock.Unlock()
	early := 0
	for _, one := range late {
		if one < 0 {
			early++
		}
	}
	if int64(len(late)) < messages {
		return "", fmt.Errorf("%d tasks, but %d ran", messages, len(late))
	}
	text := percentiles(late, "ms")
	return fmt.Sprintf("%s %s min_ms=%g early=%d again=%d", figures, text, late[0], early, int64(len(late))-messages), nil
}

package main

import (
	"encoding/json"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeromicro/go-queue/dq"
)

// mail is about 100 bytes as JSON, the same as in the benches.
type mail struct {
	User    int64  `json:"user"`
	Subject string `json:"subject"`
	Text    string `json:"text"`
}

func body(user int64) ([]byte, error) {
	return json.Marshal(mail{User: user, Subject: "Your order is on its way", Text: "It will be there tomorrow morning."})
}

// sendFrom lets so many callers, each with a producer of its own, send all messages; each awaits every call. It says how long each call
// took, in microseconds.
func sendFrom(told asked, callers, messages int64, delay time.Duration) ([]float64, error) {
	var next atomic.Int64
	took := make([][]float64, callers)
	failed := make([]error, callers)
	var all sync.WaitGroup
	for n := range took {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			producer := dq.NewProducer(told.beanstalks())
			defer producer.Close()
			for {
				user := next.Add(1) - 1
				if user >= messages {
					return
				}
				began := time.Now()
				bytes, err := body(user)
				if err == nil {
					_, err = producer.Delay(bytes, delay)
				}
				if err != nil {
					failed[n] = err
					return
				}
				took[n] = append(took[n], float64(time.Since(began).Nanoseconds())/1e3)
			}
		}(n)
	}
	all.Wait()
	var flat []float64
	for n := range took {
		if failed[n] != nil {
			return nil, failed[n]
		}
		flat = append(flat, took[n]...)
	}
	return flat, nil
}

func send(told asked) (string, error) {
	messages, err := told.number("messages", 50_000)
	if err != nil {
		return "", err
	}
	callers, err := told.number("callers", 64)
	if err != nil {
		return "", err
	}
	nodes, err := watch(told.endpoints())
	if err != nil {
		return "", err
	}
	m, err := startMeter(told)
	if err != nil {
		return "", err
	}
	took, err := sendFrom(told, callers, messages, time.Hour)
	if err != nil {
		return "", err
	}
	figures, err := m.stop(messages)
	if err != nil {
		return "", err
	}
	jobs, err := nodes.jobs()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %s copies=%g", figures, percentiles(took, "us"), float64(jobs)/float64(messages)), nil
}

// fill puts a backlog there, and leaves nothing of that behind in this process.
func fill(told asked, messages int64) error {
	_, err := sendFrom(told, 8, messages, 0)
	debug.FreeOSMemory()
	return err
}

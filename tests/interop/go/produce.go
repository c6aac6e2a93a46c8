package main

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/zeromicro/go-queue/dq"
)

// task is what a task carries: its name in the ledger, and how long its work takes.
type task struct {
	ID     string `json:"id"`
	Micros int64  `json:"micros"`
}

// produce sends tasks, so many at a time, each with a random delay, until count are accepted or, with 0, until SIGTERM. It prints the
// name of each and the ids that the library answered.
func produce(producer dq.Producer, prefix string, numbers []int64) {
	count, abreast, least, most, micros := numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
	book := openJournal()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		os.Exit(0)
	}()
	book.line("mark ready")
	var next atomic.Int64
	var callers sync.WaitGroup
	for range make([]struct{}, abreast) {
		callers.Add(1)
		go func() {
			defer callers.Done()
			for {
				n := next.Add(1) - 1
				if count > 0 && n >= count {
					return
				}
				id := fmt.Sprintf("%s-%d", prefix, n)
				body, err := json.Marshal(task{ID: id, Micros: rand.Int63n(micros + 1)})
				if err != nil {
					fail("%v", err)
				}
				delay := time.Duration(least+rand.Int63n(most-least+1)) * time.Millisecond
				book.line("offer %s", id)
				ids, err := producer.Delay(body, delay)
				if err != nil {
					fail("%s: %v", id, err)
				}
				book.line("accept %s", id)
				fmt.Println(id, ids)
			}
		}()
	}
	callers.Wait()
}

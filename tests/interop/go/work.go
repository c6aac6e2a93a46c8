package main

import (
	"encoding/json"
	"os"
	"time"

	"github.com/zeromicro/go-queue/dq"
	"github.com/zeromicro/go-zero/core/stores/redis"
)

// work is a worker of the library, as its users write it.
func work(nodes []dq.Beanstalk, redisHost string) {
	book := openJournal()
	consumer := dq.NewConsumer(dq.DqConf{
		Beanstalks: nodes,
		Redis:      redis.RedisConf{Host: redisHost, Type: redis.NodeType},
	})
	book.line("mark ready")
	consumer.Consume(func(body []byte) {
		var work task
		if err := json.Unmarshal(body, &work); err != nil {
			book.line("broken %d a body that is no task: %v", os.Getpid(), err)
			return
		}
		// The library has no notion of an attempt: what it starts it starts once.
		book.line("start %s 1 %d", work.ID, os.Getpid())
		time.Sleep(time.Duration(work.Micros) * time.Microsecond)
		book.line("finish %s 1 %d", work.ID, os.Getpid())
	})
}

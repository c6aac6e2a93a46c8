package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// journal appends one line for each event by one write, so that a SIGKILL loses nothing of it.
type journal struct{ file *os.File }

func openJournal() journal {
	file, err := os.OpenFile(os.Getenv("GO_QUEUE_TEST_JOURNAL"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		fail("the journal: %v", err)
	}
	return journal{file}
}

func (j journal) line(format string, arguments ...any) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		fail("the clock: %v", err)
	}
	line := fmt.Sprintf("%d %s\n", now.Nano(), fmt.Sprintf(format, arguments...))
	if _, err := j.file.WriteString(line); err != nil {
		fail("the journal: %v", err)
	}
}

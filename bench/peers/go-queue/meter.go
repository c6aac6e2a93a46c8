package main

import (
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/beanstalkd/go-beanstalk"
)

// meter measures from its start on: wall time, CPU time of this process, of the nodes and of Redis.
type meter struct {
	told              asked
	began             time.Time
	cpu, nodes, redis time.Duration
}

func startMeter(told asked) (meter, error) {
	m := meter{told: told}
	var err error
	if m.nodes, err = serverTime(told["node_pids"]); err != nil {
		return m, err
	}
	if m.redis, err = serverTime(told["redis_pid"]); err != nil {
		return m, err
	}
	m.began, m.cpu = time.Now(), cpuTime()
	return m, nil
}

// stop gives the figures as the driver wants them.
func (m meter) stop(messages int64) (string, error) {
	wall, cpu := time.Since(m.began), cpuTime()-m.cpu
	nodes, err := serverTime(m.told["node_pids"])
	if err != nil {
		return "", err
	}
	redis, err := serverTime(m.told["redis_pid"])
	if err != nil {
		return "", err
	}
	perMillion := func(time time.Duration) float64 { return time.Seconds() * 1e6 / float64(messages) }
	return fmt.Sprintf("messages=%d wall_ns=%d cpu_ns=%d nodes/M=%g redis/M=%g",
		messages, wall.Nanoseconds(), cpu.Nanoseconds(), perMillion(nodes-m.nodes), perMillion(redis-m.redis)), nil
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// serverTime is the CPU time of the main threads of these processes.
func serverTime(pids string) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range strings.Split(pids, ",") {
		if pid == "" {
			continue
		}
		text, err := os.ReadFile("/proc/" + pid + "/schedstat")
		if err != nil {
			return 0, err
		}
		nanos, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(nanos)
	}
	return sum, nil
}

// watched is a set of nodes that are asked how many jobs they hold.
type watched []*beanstalk.Conn

func watch(endpoints []string) (watched, error) {
	var nodes watched
	for _, endpoint := range endpoints {
		conn, err := beanstalk.Dial("tcp", endpoint)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, conn)
	}
	return nodes, nil
}

// jobs counts the jobs of the tube that are not buried, on all nodes.
func (w watched) jobs() (int64, error) {
	var sum int64
	for _, conn := range w {
		stats, err := beanstalk.NewTube(conn, tube).Stats()
		if err != nil && strings.Contains(err.Error(), "not found") {
			continue
		}
		if err != nil {
			return 0, err
		}
		for _, state := range []string{"ready", "reserved", "delayed"} {
			count, err := strconv.ParseInt(stats["current-jobs-"+state], 10, 64)
			if err != nil {
				return 0, err
			}
			sum += count
		}
	}
	return sum, nil
}

// untilEmpty waits until no node holds a job.
func (w watched) untilEmpty(within time.Duration) error {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		jobs, err := w.jobs()
		if err != nil || jobs == 0 {
			return err
		}
		if time.Since(began) > within {
			return fmt.Errorf("%d jobs are still there after %s", jobs, within)
		}
	}
}

// percentile gives the value below which this share of the sorted values lies.
func percentile(sorted []float64, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := share * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}

func percentiles(values []float64, unit string) string {
	sort.Float64s(values)
	return fmt.Sprintf("p50_%[1]s=%[2]g p99_%[1]s=%[3]g max_%[1]s=%[4]g", unit,
		percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1))
}

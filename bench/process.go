package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server that the benchmark started and stops.
type process struct {
	cmd     *exec.Cmd
	address string
	key     string
	started time.Duration // from exec to the first answer
	log     string        // path of what it has printed; "" for the floor
}

// startFloor runs this program again as the floor.
func startFloor(ctx context.Context) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "floor") //nolint:gosec // this program once more
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("reading the floor's address: %w", err)
	}
	return &process{cmd: cmd, address: strings.TrimSpace(line)}, nil
}

// startService runs the service on its embedded default with everything under dir, and with more flags, and waits for its
// first answer.
func startService(ctx context.Context, binary, dir string, more ...string) (*process, error) {
	addressFile := filepath.Join(dir, "address")
	if err := os.Remove(addressFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "service.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	//nolint:errcheck // the service has its own descriptor of it
	defer log.Close()
	args := append([]string{"serve", "--dev", "--data", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "off"}, more...)
	cmd := exec.CommandContext(ctx, binary, args...) //nolint:gosec // the program to be measured
	cmd.Stdout, cmd.Stderr = log, log
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log.Name()}
	for time.Since(begin) < 30*time.Second {
		if b, err := os.ReadFile(addressFile); err == nil && len(b) > 0 {
			p.address = "http://" + strings.TrimSpace(string(b))
			if answers(ctx, p.address+"/health") {
				p.started = time.Since(begin)
				key, err := os.ReadFile(filepath.Join(dir, "owner.key"))
				if err != nil {
					return nil, err
				}
				p.key = strings.TrimSpace(string(key))
				return p, nil
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil, fmt.Errorf("the service did not answer within 30 s: see %s", log.Name())
}

func answers(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// stop ends the process in good order, or kills it after 20 s.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil // the floor knows no signal
		}
		return err
	case <-time.After(20 * time.Second):
		return p.cmd.Process.Kill()
	}
}

// resident gives the resident memory of the process in MB (10^6 bytes).
func (p *process) resident() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, errors.New("no VmRSS in the process status")
}

// processorTime gives the seconds of processor time of a process and its children so far.
func processorTime(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in brackets, may have anything in it; utime and stime are the 12th and 13th field behind it (proc(5)), in hundredths.
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("the process status has not the fields that it should have")
	}
	sum := 0.0
	for _, f := range fields[11:13] {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, err
		}
		sum += v / 100
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, path := range tasks {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread has ended
		} else if err != nil {
			return 0, err
		}
		for _, f := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(f)
			if err != nil {
				return 0, err
			}
			v, err := processorTime(child)
			if err != nil {
				return 0, err
			}
			sum += v
		}
	}
	return sum, nil
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
)

// inspectArgument makes the program look at one module and end.
const inspectArgument = "hsm-inspect"

// inspectTime is how long a module may take to say what it has.
const inspectTime = 20 * time.Second

// hsmChild gives what the program is as a process for a PKCS#11 module, or nil: then it is the program itself.
func hsmChild(argument string) func() int {
	switch argument {
	case remote.Argument:
		log := slog.New(slog.NewTextHandler(os.Stderr, nil)) // line by line into the parent's log
		pins := &token.PINMemory{}
		return func() int {
			return remote.Child(context.Background(), func(ctx context.Context, c token.Config) (token.Token, error) {
				return token.Open(ctx, c, token.Options{Logger: log, PINs: pins})
			})
		}
	case inspectArgument:
		return inspectChild
	}
	return nil
}

// inspection is what the child of inspect is told on standard input.
type inspection struct {
	Module   string `json:"module"`
	InitArgs string `json:"init_args"`
}

// inspectChild looks at a module and prints what it found. What the module itself prints goes to standard error.
func inspectChild() int {
	out, err := takeStdout()
	if err == nil {
		err = inspectModule(os.Stdin, out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailure
	}
	return exitOK
}

// takeStdout keeps standard output for the answer alone.
func takeStdout() (*os.File, error) {
	fd, err := unix.Dup(1)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	if err := unix.Dup2(2, 1); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "answer"), nil
}

func inspectModule(in io.Reader, out io.Writer) error {
	var i inspection
	if err := json.UnmarshalRead(in, &i, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	found, err := token.Inspect(i.Module, i.InitArgs)
	if err != nil {
		return err
	}
	return json.MarshalWrite(out, found)
}

// inspect looks at a module in a process of its own, so that one that hangs or crashes does neither here.
func inspect(ctx context.Context, module, initArgs string) (token.Inventory, error) {
	var found token.Inventory
	ctx, cancel := context.WithTimeout(ctx, inspectTime)
	defer cancel()
	question, err := json.Marshal(inspection{module, initArgs})
	if err != nil {
		return found, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", inspectArgument)
	cmd.Args[0] = os.Args[0]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	var answer, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(question), &answer, &complaint
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return found, fmt.Errorf("the module did not answer: %w", context.Cause(ctx))
		}
		lines := strings.Split(strings.TrimSpace(complaint.String()), "\n")
		why := printable(lines[len(lines)-1])
		if len(lines) > 1 || why == "" {
			why = err.Error() + ": " + printable(lines[0]) // it crashed: the first line says how
		}
		return found, errors.New(why)
	}
	if err := json.Unmarshal(answer.Bytes(), &found, json.RejectUnknownMembers(true)); err != nil {
		return found, fmt.Errorf("the module's process answers with something else: %w", err)
	}
	return found, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/keywright/keywright/client"
	"github.com/keywright/keywright/fault"
)

// The exit codes, as docs/guides/cli.md lists them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitDenied      = 3
	exitNotFound    = 4
	exitConflict    = 5
	exitUnavailable = 6
	exitInvalid     = 7
)

// Environment variables. The API key is never taken from a flag: a command line can be read by every process of the machine.
const (
	envKey        = "KEYWRIGHT_API_KEY"
	envKeyFile    = "KEYWRIGHT_API_KEY_FILE"
	envPassphrase = "KEYWRIGHT_PASSPHRASE"
)

// globals are the flags that every command has.
type globals struct {
	Address     string        `help:"Address of the service." env:"KEYWRIGHT_ADDR" default:"http://127.0.0.1:8200" placeholder:"URL"`
	KeyFile     string        `help:"File with the API key. Else the key is taken from $$KEYWRIGHT_API_KEY, or from the file that $$KEYWRIGHT_API_KEY_FILE names." placeholder:"FILE"`
	SessionFile string        `help:"File with a session, as \"session login\" makes it: it is presented instead of an API key." env:"KEYWRIGHT_SESSION_FILE" placeholder:"FILE"`
	Output      string        `short:"o" help:"What to print: text, or json for exactly the data of the service's answer." enum:"text,json" default:"text"`
	CAFile      string        `name:"ca-file" help:"PEM file with the certificates to trust, instead of the system's." env:"KEYWRIGHT_CA_FILE" placeholder:"FILE"`
	CertFile    string        `name:"cert-file" help:"PEM file with the client's own certificate, for services that know callers by it." env:"KEYWRIGHT_CERT_FILE" placeholder:"FILE"`
	CertKey     string        `name:"cert-key-file" help:"PEM file with the key of the client's certificate." env:"KEYWRIGHT_CERT_KEY_FILE" placeholder:"FILE"`
	PlainHTTP   bool          `help:"Allow http:// to an address that is not loopback: others can read the API key and all data."`
	Timeout     time.Duration `help:"How long a request may take, with its repetitions." default:"30s"`
	Approval    string        `help:"Id of an approval, for what takes one." placeholder:"ID"`
	NoColor     bool          `help:"No colours, even on a terminal ($$NO_COLOR does the same)."`
}

// app is what commands share.
type app struct {
	*globals
	ctx    context.Context //nolint:containedctx // of the one command that the program runs, for reading what may never come
	stdin  *os.File
	stdout *os.File
	stderr *os.File
	c      *client.Client
}

// client gives the client for the service, made on first use so that offline commands need no credential.
func (a *app) client() (*client.Client, error) {
	if a.c != nil {
		return a.c, nil
	}
	saved, err := a.savedSession()
	if err != nil {
		return nil, err
	}
	if saved != nil {
		a.c, err = a.newClient("", &saved.Session)
		return a.c, err
	}
	key, err := a.apiKey()
	if err != nil {
		return nil, err
	}
	a.c, err = a.newClient(key, nil)
	return a.c, err
}

// newClient makes a client with an API key or a session, or neither.
func (a *app) newClient(key string, session *client.Session) (*client.Client, error) {
	c, err := client.New(client.Options{Address: a.Address, Key: key, Session: session, CAFile: a.CAFile, CertFile: a.CertFile, CertKeyFile: a.CertKey, Timeout: a.Timeout,
		AllowPlainHTTP: a.PlainHTTP, UserAgent: "keywright/" + programVersion()})
	if err != nil {
		return nil, usage("%s", strings.TrimPrefix(err.Error(), "client: "))
	}
	return c, nil
}

func (a *app) close() {
	if a.c != nil {
		a.c.Close()
	}
}

// apiKey finds the key: the flag's file, the variable, the variable's file. No key is no error: some calls need none.
func (a *app) apiKey() (string, error) {
	path := a.KeyFile
	if path == "" {
		if key := strings.TrimSpace(os.Getenv(envKey)); key != "" {
			return key, nil
		}
		path = os.Getenv(envKeyFile)
	}
	if path == "" {
		return "", nil
	}
	b, err := readSmall(path, 16<<10) // a token of another issuer is longer than an API key
	if err != nil {
		return "", fmt.Errorf("reading the API key: %w", err)
	}
	defer clear(b)
	key := strings.TrimSpace(string(b))
	if key == "" || strings.ContainsAny(key, "\r\n\t ") {
		return "", fmt.Errorf("%s does not hold an API key", path)
	}
	return key, nil
}

func (a *app) json() bool { return a.Output == "json" }

// colour says whether to use colours on f.
func (a *app) colour(f *os.File) bool {
	return !a.NoColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(f)
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// exitError ends the program with a code of its own. An empty message says that everything has been said.
type exitError struct {
	code    int
	message string
}

func (e *exitError) Error() string { return e.message }

// complain prints one line about err to stderr and gives the exit code.
func (a *app) complain(err error) int {
	code, message := a.explain(err)
	if message != "" {
		label := "error:"
		if a.colour(a.stderr) {
			label = "\x1b[31merror:\x1b[0m"
		}
		fmt.Fprintln(a.stderr, "keywright:", label, strings.ReplaceAll(message, "\n", "; "))
	}
	return code
}

// explain turns an error into an exit code and a line that a person can act on.
func (a *app) explain(err error) (int, string) {
	var e *client.Error
	var x *exitError
	switch {
	case errors.As(err, &x):
		if x.message == "" {
			return x.code, ""
		}
		return x.code, err.Error()
	case isUsage(err):
		return exitUsage, err.Error() + " (see --help)"
	case errors.As(err, &e):
		code, message := a.explainAnswer(e)
		if where, ok := strings.CutSuffix(err.Error(), e.Error()); ok {
			message = where + message // "lines 1 to 1000: "
		}
		return code, message
	case errors.Is(err, context.Canceled):
		return exitFailure, "interrupted"
	case errors.Is(err, client.ErrConnection):
		cause := strings.TrimPrefix(err.Error(), client.ErrConnection.Error()+": ")
		hint := "is it running?"
		if a.CertFile != "" {
			hint += " does it take the client's certificate?"
		}
		return exitUnavailable, "cannot reach the service at " + a.Address + ": " + cause + " (" + hint + " --address or $KEYWRIGHT_ADDR names another)"
	}
	return exitFailure, err.Error()
}

func (a *app) explainAnswer(e *client.Error) (int, string) {
	message := strings.TrimSuffix(e.Message, ".")
	code := exitFailure
	switch e.Status {
	case http.StatusUnauthorized:
		code = exitDenied
		if key, err := a.apiKey(); err == nil && key == "" && a.SessionFile == "" {
			message += "; no API key was given: use --key-file FILE, $" + envKey + " or $" + envKeyFile
		}
	case http.StatusForbidden:
		code = exitDenied
		if fault.Code(e.Code) == fault.ApprovalRequired {
			message += "; here by `keywright approvals request`, and --approval ID"
		}
	case http.StatusNotFound, http.StatusGone:
		code = exitNotFound
	case http.StatusConflict:
		code = exitConflict
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		code = exitUnavailable
		if fault.Code(e.Code) == fault.Locked {
			message += "; `keywright unlock` opens it"
		}
		if e.RetryAfter > 0 && fault.Code(e.Code) != fault.RateLimited { // which says so itself
			message += fmt.Sprintf("; try again in %s", e.RetryAfter)
		}
	}
	detail := e.Code
	if detail == "" {
		detail = fmt.Sprintf("HTTP %d, not an answer of this service's API", e.Status)
	}
	if e.RequestID != "" {
		detail += ", request " + e.RequestID
	}
	return code, message + " (" + detail + ")"
}

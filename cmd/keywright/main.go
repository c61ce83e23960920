// Command keywright is the key service and its command line in one binary.
//
// The commands speak to a running service through package client and see what any other caller sees: they trust the
// service at the address they were given, and hold the API key only in memory. The serve command is the service itself.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/keywright/keywright/client"
)

// commands is the whole command line.
type commands struct {
	globals `embed:"" group:"Global flags"`

	Keys        keysCmd        `cmd:"" help:"Create, show and manage keys." group:"Keys"`
	Encrypt     encryptCmd     `cmd:"" help:"Encrypt data, or a file of any size." group:"Operations"`
	Decrypt     decryptCmd     `cmd:"" help:"Decrypt data, or a file that encrypt made." group:"Operations"`
	Rewrap      rewrapCmd      `cmd:"" help:"Encrypt ciphertexts anew under the key's newest version." group:"Operations"`
	Sign        signCmd        `cmd:"" help:"Sign data or a digest." group:"Operations"`
	Verify      verifyCmd      `cmd:"" help:"Verify a signature; exit code 7 when it is wrong." group:"Operations"`
	MAC         macCmd         `cmd:"" name:"mac" help:"Compute a message authentication code." group:"Operations"`
	VerifyMAC   verifyMACCmd   `cmd:"" name:"verify-mac" help:"Verify a message authentication code; exit code 7 when it is wrong." group:"Operations"`
	Wrap        wrapCmd        `cmd:"" help:"Wrap key material." group:"Operations"`
	Unwrap      unwrapCmd      `cmd:"" help:"Unwrap key material." group:"Operations"`
	Derive      deriveCmd      `cmd:"" help:"Agree on a key with a peer's public key." group:"Operations"`
	Encapsulate encapsulateCmd `cmd:"" help:"Make a shared secret and what carries it to a KEM key." group:"Operations"`
	Decapsulate decapsulateCmd `cmd:"" help:"Recover a shared secret with a KEM key." group:"Operations"`
	DataKey     dataKeyCmd     `cmd:"" help:"Make a data key, in clear and encrypted." group:"Operations"`
	Random      randomCmd      `cmd:"" help:"Random bytes." group:"Operations"`

	APIKeys   apiKeysCmd   `cmd:"" name:"api-keys" help:"Create, list, rotate and revoke API keys." group:"Service"`
	Grants    grantsCmd    `cmd:"" help:"Give, list and take back rights of single callers on single keys." group:"Service"`
	Approvals approvalsCmd `cmd:"" help:"Request, list, give and refuse approvals." group:"Service"`
	Authorize authorizeCmd `cmd:"" help:"Say what would be decided, and by which rule." group:"Service"`
	Tenants   tenantsCmd   `cmd:"" help:"Create, list, suspend and resume tenants." group:"Service"`
	Attest    attestCmd    `cmd:"" help:"Verify evidence of where a key lives." group:"Service"`
	Audit     auditCmd     `cmd:"" help:"Read, export and verify the audit log." group:"Service"`
	Backup    backupCmd    `cmd:"" help:"Make a backup of everything, and verify one." group:"Service"`
	Restore   restoreCmd   `cmd:"" help:"Fill an empty store from a backup." group:"Service"`
	Store     storeCmd     `cmd:"" help:"Move a store to another place." group:"Service"`
	Backends  backendsCmd  `cmd:"" help:"What the backends can do." group:"Service"`
	Events    eventsCmd    `cmd:"" help:"Show what changes, as it happens." group:"Service"`
	Jobs      jobsCmd      `cmd:"" help:"Work that outlives the request that asked for it." group:"Service"`
	Nodes     nodesCmd     `cmd:"" help:"The services that run on one store." group:"Service"`
	Session   sessionCmd   `cmd:"" help:"Sessions: what is for people, and not for API keys." group:"Service"`
	Settings  settingsCmd  `cmd:"" help:"What the tenant has settled for itself." group:"Service"`
	Root      rootCmd      `cmd:"" help:"The ways to open the root secret." group:"Service"`
	Health    healthCmd    `cmd:"" help:"Whether the service is up; exit code 6 when it is not, or locked." group:"Service"`
	Whoami    whoamiCmd    `cmd:"" help:"Who the service takes you for." group:"Service"`
	Webhooks  webhooksCmd  `cmd:"" help:"Receivers of events." group:"Service"`
	Unlock    unlockCmd    `cmd:"" help:"Open the root secret of a locked service." group:"Service"`
	Serve     serveCmd     `cmd:"" help:"Run the service." group:"Service"`
	Config    configCmd    `cmd:"" help:"Check a configuration before the service has to." group:"Service"`

	HSM hsmCmd `cmd:"" name:"hsm" help:"Look at PKCS#11 tokens and prepare them, without the service." group:"Devices"`

	TPM tpmCmd `cmd:"" name:"tpm" help:"Look at a TPM 2.0 and prepare it, without the service." group:"Devices"`

	Version    versionCmd    `cmd:"" help:"Show the version of this program." group:"Program"`
	Completion completionCmd `cmd:"" help:"Print a completion script for a shell." group:"Program"`
}

func main() {
	// First of all: as the process of a PKCS#11 module this program is nothing else.
	if len(os.Args) > 1 {
		if child := hsmChild(os.Args[1]); child != nil {
			os.Exit(child())
		}
	}
	os.Exit(mainCode())
}

func mainCode() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// run parses the arguments, runs the command and gives the exit code.
func run(ctx context.Context, args []string, stdin *os.File, stdout, stderr *os.File) int {
	var c commands
	a := &app{globals: &c.globals, ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr}
	code := exitOK
	parser, err := newParser(&c, stdout, stderr, func(n int) { code = n; panic(exited{}) })
	if err != nil {
		fmt.Fprintln(stderr, "keywright:", err)
		return exitFailure
	}
	defer a.close()
	k, done, err := parse(parser, args)
	if done {
		return code // --help has printed itself
	}
	if err != nil {
		a.complain(&usageError{err})
		return exitUsage
	}
	if c.Approval != "" {
		ctx = client.WithApproval(ctx, c.Approval)
	}
	k.BindTo(ctx, (*context.Context)(nil))
	k.Bind(a)
	if err := k.Run(); err != nil {
		return a.complain(err)
	}
	return exitOK
}

// exited carries kong's wish to end (after --help) up to run, so that everything ends in one place.
type exited struct{}

func parse(p *kong.Kong, args []string) (k *kong.Context, done bool, err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case exited:
			done = true
		default:
			panic(r)
		}
	}()
	if len(args) == 0 {
		args = []string{"--help"}
	}
	k, err = p.Parse(args)
	return k, false, err
}

func newParser(c *commands, stdout, stderr io.Writer, exit func(int)) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("keywright"),
		kong.Description("A hardware-backed key service: the keys stay inside, applications ask over REST. These commands speak to the service at --address; the API key comes from a file or the environment, never from a flag."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Writers(stdout, stderr),
		kong.Exit(exit),
		kong.TypeMapper(reflect.TypeFor[time.Time](), kong.MapperFunc(parseTime)),
	)
}

// parseTime reads a time and says what one looks like where it is none.
func parseTime(c *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := c.Scan.PopValueInto("time", &text); err != nil {
		return err
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return errors.New("a time is as in 2026-01-31T15:04:05Z (RFC 3339)")
	}
	target.Set(reflect.ValueOf(t))
	return nil
}

// usageError is a command line that cannot be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

func isUsage(err error) bool {
	var u *usageError
	return errors.As(err, &u)
}

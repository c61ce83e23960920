package postgres

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/keywright/keywright/fault"
)

// IsURI reports whether a store's URI is one of this package's.
func IsURI(uri string) bool {
	return strings.HasPrefix(uri, "postgres://") || strings.HasPrefix(uri, "postgresql://")
}

func badURI(message string) error { return fault.New(fault.BadField, message) }

// parse makes the configuration of every connection. The errors do not repeat the URI.
func parse(uri string, o Options) (*pgx.ConnConfig, error) {
	if !IsURI(uri) {
		return nil, badURI("the URI of this store begins with postgres://")
	}
	u, err := url.Parse(uri)
	if err != nil {
		return nil, badURI("the URI of the store cannot be read")
	}
	q := u.Query()
	if _, has := u.User.Password(); has || q.Has("password") {
		return nil, badURI("the URI of the store holds a password: it belongs into a file")
	}
	for _, name := range []string{"search_path", "options"} {
		if q.Has(name) {
			return nil, badURI("the URI of the store sets what is not its to set: " + name)
		}
	}
	host := q.Get("host")
	if host == "" {
		host = u.Hostname()
	}
	switch mode := q.Get("sslmode"); mode {
	case "":
		q.Set("sslmode", "verify-full")
		if strings.HasPrefix(host, "/") {
			q.Set("sslmode", "disable")
		}
		u.RawQuery = q.Encode()
	case "disable", "require", "verify-ca", "verify-full":
	default:
		return nil, badURI("sslmode is disable, require, verify-ca or verify-full: the others settle for less without a word")
	}
	c, err := pgx.ParseConfig(u.String())
	if err != nil {
		// Its text repeats parts of the URI.
		return nil, badURI("the URI of the store cannot be read, or a file that it names")
	}
	settle(c, o)
	return c, nil
}

// settle makes a session what this store relies on.
func settle(c *pgx.ConnConfig, o Options) {
	secure(c.TLSConfig)
	for _, f := range c.Fallbacks {
		secure(f.TLSConfig)
	}
	c.ConnectTimeout = o.ConnectTimeout
	if c.ValidateConnect == nil {
		// Of several hosts one is the primary; and one that is no longer gets no more work.
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		// The server hears that nobody waits any more: a statement that went on would hold its locks.
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Second}
	}
	ms := func(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }
	for name, value := range map[string]string{
		// Without pg_temp at the end it would come first, and a temporary table could take a real one's place.
		"search_path":                         pgx.Identifier{o.Schema}.Sanitize() + ", pg_temp",
		"client_encoding":                     "UTF8",
		"default_transaction_isolation":       "read committed",
		"synchronous_commit":                  "on",
		"statement_timeout":                   ms(o.StatementTimeout),
		"lock_timeout":                        ms(o.StatementTimeout),
		"idle_in_transaction_session_timeout": ms(2 * o.StatementTimeout), // a node that hangs lets go of the head
	} {
		c.RuntimeParams[name] = value
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "keywright"
	}
}

func secure(c *tls.Config) {
	if c != nil {
		c.MinVersion = tls.VersionTLS12
	}
}

// password puts the present password into the configuration of one connection.
func (o Options) password(_ context.Context, c *pgx.ConnConfig) error {
	if o.PasswordFile == "" {
		return nil
	}
	text, err := os.ReadFile(o.PasswordFile)
	if err != nil {
		return unavailable("the file with the database's password cannot be read", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	c.Password = string(bytes.TrimSuffix(line, []byte("\r")))
	clear(text)
	if c.Password == "" {
		return unavailable("the file with the database's password is empty", nil)
	}
	return nil
}

// connect makes one connection beside the pool.
func (s *Store) connect(ctx context.Context) (*pgx.Conn, error) {
	c := s.config.Copy()
	if err := s.opts.password(ctx, c); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	return conn, nil
}

package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// Everything that PostgreSQL has and CockroachDB or YugabyteDB lack stands in this file: advisory locks, notifications,
// and settings of the server's own durability.

// lockClass is the first half of this program's advisory locks: "kwst", as in the files of the embedded store.
const lockClass = 0x6b777374

// The second half is made of the schema's name and what the lock is for: advisory locks are the whole database's.
func (s *Store) lockKey(purpose string) int32 {
	sum := sha256.Sum256([]byte(s.opts.Schema + "\x00" + purpose))
	return int32(binary.BigEndian.Uint32(sum[:4]))
}

// claimLoading keeps other loaders, and whoever migrates, out of the schema for as long as the connection lives. The server gives a lock back some
// time after the connection that had it was closed: that is waited for, a second at most.
func (s *Store) claimLoading(ctx context.Context, conn *pgx.Conn) error {
	for end := time.Now().Add(time.Second); ; {
		var mine bool
		if err := conn.QueryRow(ctx, sqlTryLock, int32(lockClass), s.lockKey("schema")).Scan(&mine); err != nil || mine {
			return err
		}
		if time.Now().After(end) {
			return unavailable("somebody else is making a store in this schema", nil)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// exclusively runs f while no other store migrates the schema.
func (s *Store) exclusively(ctx context.Context, conn *pgx.Conn, f func() error) error {
	key := s.lockKey("schema")
	if _, err := conn.Exec(ctx, sqlLock, int32(lockClass), key); err != nil {
		return err
	}
	err := f()
	_, unlocked := conn.Exec(ctx, sqlUnlock, int32(lockClass), key)
	return errors.Join(err, unlocked)
}

// checkServer refuses a server that is set to lose what it has acknowledged.
func checkServer(ctx context.Context, conn *pgx.Conn) error {
	for _, setting := range []string{"fsync", "full_page_writes"} {
		var value string
		err := conn.QueryRow(ctx, "SHOW "+setting).Scan(&value)
		if state(err) == stateNoParameter {
			continue // not PostgreSQL
		}
		if err != nil {
			return err
		}
		if !strings.EqualFold(value, "on") {
			return unavailable("the database is not durable: its setting "+setting+" is off", nil)
		}
	}
	return nil
}

// channel is where this schema's nodes wake each other: channels are the whole database's.
func (s *Store) channel() string {
	sum := sha256.Sum256([]byte(s.opts.Schema + "\x00news"))
	return "keywright_" + hex.EncodeToString(sum[:8])
}

// canNotify reports whether the database has notifications. Without them news are met by asking alone.
func (s *Store) canNotify(ctx context.Context, conn *pgx.Conn) (bool, error) {
	_, err := conn.Exec(ctx, sqlNotify, s.channel())
	if st := state(err); st == stateNoFunction || st == stateUnsupported {
		return false, nil
	}
	return err == nil, err
}

// listen calls wake for each notification until ctx ends or the connection is lost.
func (s *Store) listen(ctx context.Context, wake func()) error {
	if !s.notifies {
		<-ctx.Done()
		return ctx.Err()
	}
	c := s.config.Copy()
	if err := s.opts.password(ctx, c); err != nil {
		return err
	}
	// There is no statement to cancel in the server: to end is to hang up, at once.
	c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
	}
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer s.hangUp(conn)
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{s.channel()}.Sanitize()); err != nil {
		return err
	}
	wake() // for what was told before
	for {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
		wake()
	}
}

const (
	sqlNotify  = "SELECT pg_notify($1, '')"
	sqlTryLock = "SELECT pg_try_advisory_lock($1, $2)"
	sqlLock    = "SELECT pg_advisory_lock($1, $2)"
	sqlUnlock  = "SELECT pg_advisory_unlock($1, $2)"
)

package remote

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

var discard = slog.New(slog.DiscardHandler)

// runRogue is a child that does not keep to the protocol, in one of several ways.
func runRogue(how string) int {
	conn, err := inherited()
	if err != nil {
		return 2
	}
	if how == "echo" {
		return echo(conn)
	}
	say := func(p []byte) {
		if _, err := conn.Write(p); err != nil {
			os.Exit(0) // the parent has had enough
		}
	}
	switch how {
	case "garbage hello":
		say(bytes.Repeat([]byte("what?"), 1000))
	case "other version":
		say(seal(append(append(begin(nil, kindHello, 0), magic...), version+1)))
	case "silent":
		select {}
	default:
		say(seal(append(append(begin(nil, kindHello, 0), magic...), version)))
	}
	in := newFrameReader(conn)
	_, id, _, err := in.next()
	if err != nil {
		return 3
	}
	if how == "garbage description" {
		say(seal(append(begin(nil, kindResult, id), "neither fish nor flesh"...)))
		time.Sleep(time.Minute)
	}
	say(seal(appendDescription(begin(nil, kindResult, id), &token.Description{Serial: "rogue"})))
	for {
		kind, id, _, err := in.next()
		if err != nil {
			return 4
		}
		if kind != kindRequest {
			continue
		}
		switch how {
		case "garbage":
			say(bytes.Repeat([]byte("what?"), 1000))
		case "huge frame":
			say([]byte{0xff, 0xff, 0xff, 0xff, kindResult})
		case "empty frame":
			say(make([]byte, 64))
		case "half frame":
			say(seal(append(begin(nil, kindResult, id), "abcdef"...))[:15])
			return 0
		case "half frame, then silence":
			say(seal(append(begin(nil, kindResult, id), "abcdef"...))[:15])
			time.Sleep(time.Minute)
		case "wrong number":
			say(seal(begin(nil, kindResult, id+1)))
		case "twice":
			say(append(seal(begin(nil, kindPart, id)), seal(begin(nil, kindResult, id))...))
			say(seal(begin(nil, kindResult, id)))
		case "unknown kind":
			say(seal(begin(nil, 99, id)))
		case "unknown code":
			say(seal(append(appendBytes(append(begin(nil, kindFault, id), 0), "ERR_NEVER_HEARD_OF"), make([]byte, 16)...)))
		case "endless parts":
			for {
				say(seal(append(begin(nil, kindPart, id), make([]byte, 1<<20)...)))
			}
		case "login without question":
			say(control(kindLoggedIn, 0, loginDone))
		}
	}
}

// echo gives back what it gets.
func echo(conn net.Conn) int {
	for {
		var p [echoSize]byte
		if _, err := io.ReadFull(conn, p[:]); err != nil {
			return 0
		}
		if _, err := conn.Write(p[:]); err != nil {
			return 1
		}
	}
}

// TestRogueChildren has children that break the protocol at every point: they are killed, callers get an error of the token, and
// nobody hangs.
func TestRogueChildren(t *testing.T) {
	for _, how := range []string{"garbage hello", "other version", "silent", "garbage description"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			o := quick
			o.Command, o.OpenTimeout = rogue(how), time.Second
			if _, err := Open(t.Context(), testConfig(device(t)), o); err == nil {
				t.Error("the child was taken for a good one")
			}
		})
	}
	for _, how := range []string{"garbage", "huge frame", "empty frame", "half frame", "half frame, then silence", "wrong number", "twice", "unknown kind", "unknown code",
		"endless parts", "login without question"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			o := quick
			o.Command, o.CallTimeout = rogue(how), time.Minute // 64 MB of parts take a busy machine a while
			s, err := Open(t.Context(), testConfig(device(t)), o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			patience := 30 * time.Second
			if how == "half frame, then silence" {
				patience = 500 * time.Millisecond
			}
			_, err = use(within(t, patience), s, "echo")
			switch how {
			case "twice": // the first answer stands
				if err != nil {
					t.Error(err)
				}
			case "half frame, then silence":
				if !fault.Has(err, fault.Timeout) {
					t.Errorf("got %v", err)
				}
			default:
				wantUnavailable(t, err)
			}
			eventually(t, "the child is replaced", func() bool { c := s.Counters(); return c.Crashes+c.Kills == 1 && c.Restarts == 1 })
		})
	}
}

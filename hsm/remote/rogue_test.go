package remote

import (
	"io"
	"log/slog"
	"net"
	"os"
)

var discard = slog.New(slog.DiscardHandler)

// runRogue is a child that does not keep to the protocol, in one of several ways.
func runRogue(how string) int {
	conn, err := inherited()
	if err != nil {
		return 2
	}
	switch how {
	case "echo":
		return echo(conn)
	}
	return 3
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

var _ = os.Stderr

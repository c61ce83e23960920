package rig

import (
	"os"
	"strings"
	"testing"
)

// Server is a PostgreSQL server of its own.
type Server struct {
	Dir          string // its own; removed with the test
	URI          string // over its Unix socket, as the role keywright, owner of the database keywright and nothing more
	TCP          string // the same over TLS on loopback, with sslrootcert
	PasswordFile string
	Admin        string // URI of the superuser
	AdminFile    string // file of the superuser's password
	PID          string // of the server
}

// Postgres starts a server. It ends with the test.
func Postgres(t testing.TB) *Server {
	t.Helper()
	s := &Server{Dir: tempDir(t)}
	t.Cleanup(func() { s.Stop(t, "immediate") })
	s.Start(t)
	return s
}

// Start brings the server up, again after Stop.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	out, err := run("postgres.sh", s.Dir)
	if err != nil {
		t.Fatalf("starting PostgreSQL: %v", err)
	}
	v, _, err := assignments(string(out))
	if err != nil {
		t.Fatalf("postgres.sh printed what was not understood: %v", err)
	}
	s.URI, s.TCP, s.PasswordFile = v["PG_URI"], v["PG_TCP_URI"], v["PG_PASSWORD_FILE"]
	s.Admin, s.AdminFile, s.PID = v["PG_ADMIN_URI"], v["PG_ADMIN_PASSWORD_FILE"], v["PG_PID"]
	if s.URI == "" || s.TCP == "" || s.PasswordFile == "" || s.Admin == "" || s.AdminFile == "" || s.PID == "" {
		t.Fatal("postgres.sh printed too little")
	}
}

// Stop ends the server: mode is smart, fast or immediate, which is what a power loss leaves. A server that is down stays down.
func (s *Server) Stop(t testing.TB, mode string) {
	t.Helper()
	if _, err := run("postgres.sh", s.Dir, "stop", mode); err != nil {
		t.Errorf("stopping PostgreSQL: %v", err)
	}
}

// Password reads a file's first line.
func (s *Server) Password(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

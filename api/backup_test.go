package api

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/fault"
)

// fakeBackups writes what a test wants.
type fakeBackups struct {
	who   backup.Caller
	write func(ctx context.Context, w io.Writer) error
}

func (f *fakeBackups) Write(ctx context.Context, who backup.Caller, w io.Writer) (backup.Summary, error) {
	f.who = who
	return backup.Summary{}, f.write(ctx, w)
}

func TestBackup(t *testing.T) {
	r := newRig(t, Limits{})
	refused(t, r.do("POST", "/api/v1/backup", ""), 503, fault.Unavailable)
	b := &fakeBackups{}
	r.backups = b
	// Before the first byte a failure is an answer like any other.
	b.write = func(context.Context, io.Writer) error { return fault.New(fault.Conflict, "another is under way") }
	w := r.do("POST", "/api/v1/backup", "")
	refused(t, w, 409, fault.Conflict)
	if w.Header().Get("Content-Disposition") != "" {
		t.Error("the error is sent as a file")
	}
	b.write = func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "bytes"); return err }
	w = r.do("POST", "/api/v1/backup", "", "X-Request-ID", "r-1")
	if w.Code != 200 || w.Body.String() != "bytes" || w.Header().Get("Content-Type") != backupMedia {
		t.Errorf("got %d %q %v", w.Code, w.Body, w.Header())
	}
	if b.who.Judge == nil || b.who.Judge.May(backup.ActionBegin) != nil || b.who.Judge.May("nothing") == nil {
		t.Error("the judge is not the caller's")
	}
	b.who.Judge = nil
	if want := (backup.Caller{Tenant: tenant, Principal: "api-key:1", RequestID: "r-1"}); b.who != want {
		t.Errorf("the caller is %+v", b.who)
	}
}

// TestBackupCut: after the first byte a failure cuts the connection, and a caller who goes away ends the backup.
func TestBackupCut(t *testing.T) {
	r := newRig(t, Limits{})
	b := &fakeBackups{write: func(_ context.Context, w io.Writer) error {
		if _, err := io.WriteString(w, strings.Repeat("x", 100<<10)); err != nil {
			return err
		}
		return fault.New(fault.StoreCorrupted, "damage")
	}}
	r.backups = b
	addr := serve(t, r.Handler(), ServeOptions{})
	post := func(ctx context.Context) io.Reader {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/api/v1/backup", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", "good")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp.Body
	}
	if _, err := io.ReadAll(post(t.Context())); err == nil {
		t.Error("a backup that was cut short ends like a whole one")
	}
	ended := make(chan error, 1)
	b.write = func(ctx context.Context, w io.Writer) error {
		for {
			if _, err := io.WriteString(w, strings.Repeat("x", 64<<10)); err != nil {
				<-ctx.Done() // the snapshot ends with it
				ended <- err
				return err
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	post(ctx)
	cancel()
	if err := <-ended; err == nil {
		t.Error("it ended without an error")
	}
}

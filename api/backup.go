package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/fault"
)

// Backups makes backups of the whole deployment. *backup.Service is the implementation.
type Backups interface {
	// Write writes one to w. Its errors before the first byte are faults.
	Write(ctx context.Context, who backup.Caller, w io.Writer) (backup.Summary, error)
}

// noBackups is the Backups of a server without any.
type noBackups struct{}

func (noBackups) Write(context.Context, backup.Caller, io.Writer) (backup.Summary, error) {
	return backup.Summary{}, fault.New(fault.Unavailable, "this service makes no backups")
}

// backupMedia is the form of a backup: bytes.
const backupMedia = "application/octet-stream"

// makeBackup streams a backup. Its content is sealed under the root: the scope gives a copy, not what is in it.
func (s *Server) makeBackup(ctx context.Context, c *call, _ *wire.Empty) (wire.Empty, error) {
	// The first write sends the header: until then a failure can still be told by its status.
	c.answer.stream = func(w http.ResponseWriter) error {
		out := &steady{w: w, rc: http.NewResponseController(w), limit: exportStall}
		w.Header()["Content-Type"] = []string{backupMedia}
		w.Header()["Content-Disposition"] = []string{`attachment; filename="keywright.backup"`}
		who := backup.Caller{Tenant: c.principal.Tenant, Principal: c.principal.ID, RequestID: c.id, Judge: c.judge()}
		_, err := s.backups.Write(ctx, who, out)
		return err
	}
	return wire.Empty{}, nil
}

// steady gives each write its own deadline, and the time between two none: what is slow there is ours.
type steady struct {
	w     io.Writer
	rc    *http.ResponseController
	limit time.Duration
}

func (s *steady) Write(b []byte) (int, error) {
	if err := s.rc.SetWriteDeadline(time.Now().Add(s.limit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := s.w.Write(b)
	if err != nil {
		return n, err
	}
	if err := s.rc.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return n, err
	}
	return n, nil
}

func (s *Server) backupRows() []route {
	row := write(http.MethodPost, "/backup", auth.ScopeBackupWrite, "service", "A backup of the whole deployment, encrypted under its root and signed", media(backupMedia, handle(s.makeBackup)))
	row.BodyLimit, row.Timeout = 0, 0
	return []route{row}
}

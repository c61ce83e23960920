package secret

import (
	"io/fs"
	"os"
	"syscall"
	"testing"
	"time"
)

// info is a file's.
type info struct {
	mode fs.FileMode
	stat any
}

func (i info) Name() string       { return "file" }
func (i info) Size() int64        { return 0 }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return false }
func (i info) Sys() any           { return i.stat }

func TestPrivate(t *testing.T) {
	root := os.Geteuid() == 0
	for _, c := range []struct {
		mode     fs.FileMode
		uid, gid uint32
		want     bool
	}{
		{0o600, 1000, 1000, true}, {0o400, 0, 0, true}, {0o600, 0, 0, true},
		{0o640, 1000, 1000, false}, {0o440, 1000, 0, false}, // the owner is not root
		{0o440, 0, 1000, true}, {0o640, 0, 1000, true}, // a volume of Kubernetes
		{0o440, 0, 0, !root}, // a credential of systemd
		{0o644, 0, 1000, false}, {0o660, 0, 1000, false}, {0o601, 0, 1000, false}, {0o604, 1000, 1000, false}, {0o450, 0, 1000, false},
	} {
		if got := Private(info{c.mode, &syscall.Stat_t{Uid: c.uid, Gid: c.gid}}); got != c.want {
			t.Errorf("%04o of %d:%d: %v", c.mode, c.uid, c.gid, got)
		}
	}
	if Private(info{0o440, nil}) {
		t.Error("a file of an unknown owner is private")
	}
}

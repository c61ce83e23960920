package filecrypt

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Create makes the file at path from what write writes, all or nothing: the bytes go to a temporary file beside it
// (readable by its owner only), which is synced and renamed to path when write returned nil, and removed otherwise. An
// existing file is replaced only when replace is set. Without replace the error is fs.ErrExist, and an existing file is
// not touched even when it appears at the last moment.
func Create(path string, replace bool, write func(io.Writer) error) (err error) {
	if !replace {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s: %w", path, fs.ErrExist) // early, before the work; the link below decides
		}
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return fmt.Errorf("making a temporary file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, clean(f))
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing to disk: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing to disk: %w", err)
	}
	if err := place(f.Name(), path, replace); err != nil {
		return fmt.Errorf("putting the file in its place: %w", err)
	}
	return syncDir(dir)
}

// place gives the finished file its name. Rename would replace what is there and link never does; where the file system has
// no links, a look before the rename must do.
func place(from, to string, replace bool) error {
	if replace {
		return os.Rename(from, to)
	}
	err := os.Link(from, to)
	if err == nil {
		return os.Remove(from)
	}
	if errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, serr := os.Lstat(to); !errors.Is(serr, fs.ErrNotExist) {
		return errors.Join(err, serr)
	}
	return os.Rename(from, to)
}

// clean removes the temporary file; that it is closed or gone already is fine.
func clean(f *os.File) error {
	cerr := f.Close()
	if errors.Is(cerr, os.ErrClosed) {
		cerr = nil
	}
	rerr := os.Remove(f.Name())
	if errors.Is(rerr, fs.ErrNotExist) {
		rerr = nil
	}
	return errors.Join(cerr, rerr)
}

// syncDir makes the new name durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing the directory: %w", err)
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

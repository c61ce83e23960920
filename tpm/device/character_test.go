package device_test

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm/device"
)

// terminal puts a TPM behind a character device: the slave of a pseudo-terminal that passes octets as they are.
func terminal(t *testing.T, m *rig.TPM) (path string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	control := func(f func(fd int) error) {
		t.Helper()
		raw, err := master.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var inner error
		if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil || inner != nil {
			t.Fatal(err, inner)
		}
	}
	control(func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0) })
	control(func(fd int) error {
		n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		path = "/dev/pts/" + strconv.Itoa(n)
		return err
	})
	// The slave stays open here, so that the device may close and open it.
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	control(func(fd int) error {
		settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		settings.Iflag, settings.Oflag, settings.Lflag = 0, 0, 0
		settings.Cflag = settings.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		settings.Cc[unix.VMIN], settings.Cc[unix.VTIME] = 1, 0
		return unix.IoctlSetTermios(fd, unix.TCSETS, settings)
	})
	tpm, err := net.Dial(m.Address())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			command, err := message(master)
			if err != nil {
				return
			}
			if _, err := tpm.Write(command); err != nil {
				return
			}
			response, err := message(tpm)
			if err != nil {
				return
			}
			if _, err := master.Write(response); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		tpm.Close()
		master.Close()
		slave.Close()
		<-done
	})
	return path
}

func message(r io.Reader) ([]byte, error) {
	var header [10]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	all := make([]byte, binary.BigEndian.Uint32(header[2:]))
	copy(all, header[:])
	_, err := io.ReadFull(r, all[10:])
	return all, err
}

func TestCharacterDevice(t *testing.T) {
	m := rig.SWTPM(t)
	d := open(t, device.Options{URI: uri(t, "tpm:"+terminal(t, m))})
	k := signingKey(t, d)
	digest := make([]byte, 32)
	for range 5 {
		r, s, err := k.sign(t.Context(), d, digest)
		if err != nil || !k.verifies(t, digest, r, s) {
			t.Fatalf("signing: %v", err)
		}
	}
	m.Cycle(t)
	if _, _, err := k.sign(t.Context(), d, digest); err != nil {
		t.Errorf("after a reset: %v", err)
	}
	leftNothing(t, d)
}

package remote

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestWriterNeverBlocks writes to a peer that does not read: senders go on until the bound, and later everything arrives, each
// sender's frames in their order.
func TestWriterNeverBlocks(t *testing.T) {
	conn, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	var busy atomic.Int32
	busy.Store(8)
	w, err := newWriter(conn, &busy, 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { w.run(stop) })
	defer func() {
		conn.Close()
		close(stop)
		running.Wait()
		if err := w.send([]byte("late")); err == nil {
			t.Error("a frame was taken after the end")
		}
	}()

	var senders sync.WaitGroup
	var sent [8]int
	for i := range sent {
		senders.Go(func() {
			for n := 0; ; n++ {
				err := w.send(seal(append(begin(nil, kindResult, uint64(i)<<32|uint64(n)), make([]byte, 1000)...)))
				if errors.Is(err, errBacklog) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				sent[i]++
			}
		})
	}
	done := make(chan struct{})
	go func() { senders.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("a sender waits for the peer")
	}
	total := 0
	for _, n := range sent {
		total += n
	}
	if total < 2000 {
		t.Errorf("only %d frames were taken", total)
	}
	in := newFrameReader(theirs)
	var next [8]int
	for range total {
		_, id, body, err := in.next()
		if err != nil {
			t.Fatal(err)
		}
		i, n := id>>32, int(id&0xffffffff)
		if next[i] != n || len(bytes.Trim(body, "\x00")) > 0 || len(body) != 1000 {
			t.Fatalf("frame %d of sender %d, want %d", n, i, next[i])
		}
		next[i]++
	}
	if err := w.send(control(kindCancel, 1)); err != nil {
		t.Errorf("after the peer has read: %v", err)
	}
	if kind, _, _, err := in.next(); err != nil || kind != kindCancel {
		t.Errorf("got %d, %v", kind, err)
	}
	theirs.Close()
	var lost error
	for range 100 {
		if lost = w.send(control(kindCancel, 1)); lost != nil {
			break
		}
	}
	if lost == nil || errors.Is(lost, io.EOF) {
		t.Errorf("frames are taken for a peer that is gone: %v", lost)
	}
}

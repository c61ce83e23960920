package remote

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"time"
)

// What a child may print: lines longer than maxLine bytes are cut, and of more than maxLines in a second the rest is counted only.
const (
	maxLine  = 1 << 10
	maxLines = 50
)

// logLines logs what a child and its module print, until r ends. The PIN is taken out, should a module print it.
func logLines(r io.Reader, log *slog.Logger, pin []byte) {
	in := bufio.NewReaderSize(r, 4*maxLine)
	var (
		second  time.Time
		lines   int
		dropped int
	)
	for {
		line, cutOff, err := in.ReadLine()
		if cutOff {
			line = bytes.Clone(line) // the buffer is used again
		}
		for more := cutOff; more && err == nil; {
			_, more, err = in.ReadLine()
		}
		if len(line) > 0 {
			if now := time.Now(); now.Sub(second) >= time.Second {
				if dropped > 0 {
					log.Warn("the module's process printed more than is logged", "lines", dropped)
				}
				second, lines, dropped = now, 0, 0
			}
			if lines++; lines <= maxLines {
				log.Info("from the module's process", "line", clean(line, pin))
			} else {
				dropped++
			}
		}
		if err != nil {
			if dropped > 0 {
				log.Warn("the module's process printed more than is logged", "lines", dropped)
			}
			if !errors.Is(err, io.EOF) {
				log.Debug("the module's process left its output open", "error", err)
			}
			return
		}
	}
}

func clean(line, pin []byte) string {
	if len(pin) > 0 {
		line = bytes.ReplaceAll(line, pin, []byte("[redacted]"))
	}
	return string(bytes.ToValidUTF8(line[:min(len(line), maxLine)], []byte("?")))
}

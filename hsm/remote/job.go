package remote

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/hsm/token"
)

// job is a request in the child, and what it needs. Jobs are reused once the module has nothing of them any more.
type job struct {
	id     uint64
	body   []byte
	frames []byte // room for the answer
	req    request
	ctx    context.Context
	cancel context.CancelFunc
}

var jobs = sync.Pool{New: func() any { return new(job) }}

func newJob(id uint64, body []byte) (*job, error) {
	j := jobs.Get().(*job)
	j.id, j.body = id, append(j.body[:0], body...)
	if err := j.req.decode(j.body); err != nil {
		return nil, err
	}
	j.ctx, j.cancel = context.WithTimeout(context.Background(), j.req.left)
	return j, nil
}

// release wipes a job, and keeps it.
func (j *job) release(frames []byte) {
	clear(j.body)
	clear(frames)
	*j = job{body: keep(j.body), frames: keep(frames)}
	jobs.Put(j)
}

// keep gives a buffer to be used again, unless it has grown large.
func keep(b []byte) []byte {
	if cap(b) > readerSize {
		return nil
	}
	return b[:0]
}

// run does what the request asks for and gives the answer in frames. After an error the frames are room for another answer.
func (j *job) run(t token.Token) ([]byte, error) {
	r := &j.req
	b := begin(j.frames, kindResult, j.id)
	switch r.op {
	case opUse:
		out, err := t.Use(j.ctx, r.call)
		if err != nil {
			return b, err
		}
		b = append(b, out...)
		clear(out)
	case opUseMany:
		out, err := t.UseMany(j.ctx, r.call, r.items)
		if err != nil {
			return b, err
		}
		b = appendResults(b, out)
	case opRandom:
		out, err := t.Random(j.ctx, r.n)
		if err != nil {
			return b, err
		}
		b = append(b, out...)
		clear(out)
	case opPing:
		if err := t.Ping(j.ctx); err != nil {
			return b, err
		}
	case opFind, opAttributes, opGenerate, opImport, opImportWrapped, opPlace:
		o, err := j.object(t)
		if err != nil {
			return b, err
		}
		b = appendObject(b, &o)
	case opList:
		return j.list(t)
	case opDestroy:
		if err := t.Destroy(j.ctx, r.id); err != nil {
			return b, err
		}
	case opDescribe:
		d := t.Describe()
		b = appendDescription(b, &d)
	case opStats:
		b = appendStats(b, t.Stats())
	}
	if !finish(b) {
		return b, errTooLarge()
	}
	return b, nil
}

func (j *job) object(t token.Token) (token.Object, error) {
	r := &j.req
	switch r.op {
	case opGenerate:
		return t.Generate(j.ctx, r.id, r.algorithm, r.purpose, r.wrapped)
	case opImport:
		return t.Import(j.ctx, r.id, r.algorithm, r.purpose, r.material, r.wrapped)
	case opImportWrapped:
		return t.ImportWrapped(j.ctx, r.id, r.algorithm, r.purpose, r.envelope, r.wrapped)
	case opPlace:
		p, ok := t.(token.Placer)
		if !ok {
			return token.Object{}, fault.New(fault.Unsupported, "the token does not take copies of keys")
		}
		return p.Place(j.ctx, r.id, r.algorithm, r.purpose, r.blob, r.public)
	case opAttributes:
		return t.Attributes(j.ctx, r.id, r.algorithm, r.blob)
	}
	return t.Find(j.ctx, r.id)
}

// partSize is where a part of a list ends, in bytes.
const partSize = 1 << 20

// list gives as many parts as the objects need, and an empty result.
func (j *job) list(t token.Token) ([]byte, error) {
	objects, err := t.List(j.ctx)
	if err != nil {
		return j.frames, err
	}
	var all []byte
	for next := 0; next < len(objects); {
		part := begin(nil, kindPart, j.id)
		at := len(part)
		part = append(part, 0, 0, 0, 0)
		first := next
		for ; next < len(objects) && len(part) < partSize; next++ {
			part = appendObject(part, &objects[next])
		}
		binary.BigEndian.PutUint32(part[at:], uint32(next-first))
		if !finish(part) || len(all)+len(part) > maxAnswer {
			return all, errTooLarge()
		}
		all = append(all, part...)
	}
	return append(all, seal(begin(nil, kindResult, j.id))...), nil
}

func errTooLarge() error {
	return fault.New(fault.BadSize, "the answer of the token is larger than its process may send")
}

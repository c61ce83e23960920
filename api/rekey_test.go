package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/rekey"
)

// fakeRekey answers for a device, and keeps what it was asked.
type fakeRekey struct {
	Rekey
	mu      sync.Mutex // guards what follows
	backend string
	retired uint32
}

func (f *fakeRekey) KEKs(_ context.Context, _ rekey.Caller, name string) ([]rekey.KEK, error) {
	if name != "hsm" {
		return nil, fault.New(fault.BackendNotFound, "no backend of this name is configured")
	}
	return []rekey.KEK{{KEK: backend.KEK{Name: "sealing-gcm", Generation: 1}, Versions: 7}, {KEK: backend.KEK{Name: "sealing-gcm", Generation: 2, Newest: true}}}, nil
}

func (f *fakeRekey) RotateKEK(_ context.Context, _ rekey.Caller, name string) (uint32, *jobs.Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backend = name
	return 2, &jobs.Job{ID: keyID, Kind: rekey.KindReseal, State: jobs.Queued, CreatedAt: moment, UpdatedAt: moment}, nil
}

func (f *fakeRekey) RetireKEK(_ context.Context, _ rekey.Caller, name string, generation uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backend, f.retired = name, generation
	return nil
}

func TestKEKRoutes(t *testing.T) {
	r := newRig(t, Limits{})
	data := func(method, path, body string) string {
		t.Helper()
		w := r.do(method, prefix+path, body)
		_, rest, _ := strings.Cut(w.Body.String(), `"data":`)
		out, _, _ := strings.Cut(rest, `,"request_id"`)
		if w.Code/100 != 2 {
			t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		return out
	}
	want := `{"items":[{"name":"sealing-gcm","generation":1,"newest":false,"versions":7},{"name":"sealing-gcm","generation":2,"newest":true,"versions":0}],"next_cursor":""}`
	if diff := cmp.Diff(want, data("GET", "/backends/hsm/keks", "")); diff != "" {
		t.Error(diff)
	}
	refused(t, r.do("GET", prefix+"/backends/none/keks", ""), 404, fault.BackendNotFound)
	if out := data("POST", "/backends/hsm/rotate-kek", ""); !strings.HasPrefix(out, `{"generation":2,"job":{"id":"`+keyID.String()+`","kind":"reseal"`) || r.rekey.backend != "hsm" {
		t.Errorf("%s of %s", out, r.rekey.backend)
	}
	if data("POST", "/backends/other/retire-kek", `{"generation":1}`); r.rekey.backend != "other" || r.rekey.retired != 1 {
		t.Errorf("retired %d of %s", r.rekey.retired, r.rekey.backend)
	}
}

// The root is replaced, the job seals everything anew and gives the old root up, and everything works: API keys, old ciphertexts, new keys.
func TestRotateRootOverREST(t *testing.T) {
	s := newService(t)
	call1[wire.Key](s, "POST", "/keys", `{"name":"before","algorithm":"AES-256-GCM"}`)
	sealed := call1[wire.Ciphertext](s, "POST", "/keys/before/encrypt", `{"plaintext":"c2VjcmV0"}`)
	call1[wire.Key](s, "POST", "/keys/before/rotate", nil)
	repeated := func() *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodPost, prefix+"/api-keys", strings.NewReader(`{"name":"ci","scopes":["keys:read"]}`))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-API-Key", s.owner)
		req.Header.Set("Idempotency-Key", "token-1")
		w := httptest.NewRecorder()
		s.http.ServeHTTP(w, req)
		return w
	}
	if w, again := repeated(), repeated(); w.Code != 201 || again.Code != 201 {
		t.Fatal(w.Body, again.Body)
	}
	slots := call1[wire.List[wire.Slot]](s, "GET", "/root/slots", nil)
	first := slots.Items[0].ID
	if st := call1[wire.Root](s, "GET", "/root", nil); st.Generation != 1 || len(st.Earlier) != 0 {
		t.Errorf("%+v", st)
	}

	refused(t, s.do("POST", "/root/rotate", `{}`), 409, fault.Conflict)
	refused(t, s.do("POST", "/root/rotate", `{"slots":[{"kind":"passphrase","passphrase":"long enough now"}]}`), 409, fault.Conflict)
	refused(t, s.do("POST", "/root/rotate", `{"drop":["`+first+`"]}`), 409, fault.LastSlot)
	refused(t, s.do("POST", "/root/rotate", `{"drop":["nothing"]}`), 404, fault.SlotNotFound)
	refused(t, s.do("POST", "/root/rotate", `{"slots":[{"replaces":"x","kind":"passphrase","passphrase":"long enough now"}]}`), 404, fault.SlotNotFound)
	refused(t, s.do("POST", "/root/rotate", `{"slots":[{"replaces":"`+first+`","kind":"passphrase","passphrase":"short"}]}`), 400, fault.BadSize)
	refused(t, s.do("POST", "/root/rotate", `{"slots":[{"replaces":"`+first+`","kind":"passphrase","shares":3}]}`), 400, fault.MissingField)
	refused(t, s.do("POST", "/keys/reseal", `{"backend":"none"}`), 404, fault.BackendNotFound)
	refused(t, s.do("GET", "/backends/default/keks", ""), 400, fault.Unsupported)
	refused(t, s.do("POST", "/backends/default/rotate-kek", ""), 400, fault.Unsupported)
	refused(t, s.do("POST", "/root/retire", `{"lose":3}`), 409, fault.Conflict)

	done := call1[wire.RotatedRoot](s, "POST", "/root/rotate", `{"slots":[{"replaces":"`+first+`","kind":"passphrase","passphrase":"long enough now"},{"kind":"shamir","label":"board","shares":3,"threshold":2}]}`)
	if done.Generation != 2 || len(done.Slots) != 2 || done.Slots[0].Kind != "passphrase" || len(done.Slots[1].Shares) != 3 || done.Job == nil || done.Job.Kind != "reseal" {
		t.Fatalf("%+v", done)
	}
	var j wire.Job
	for range 500 {
		if j = call1[wire.Job](s, "GET", "/jobs/"+done.Job.ID, nil); j.State == "done" || j.State == "failed" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if j.State != "done" || j.Failed != 0 || j.Done != j.Total || j.Total < 2 || !j.Deployment {
		t.Fatalf("%+v", j)
	}
	if st := call1[wire.Root](s, "GET", "/root", nil); st.Generation != 2 || len(st.Earlier) != 0 || st.Stale != 0 {
		t.Errorf("%+v", st)
	}
	open := call1[wire.Plaintext](s, "POST", "/decrypt", `{"ciphertext":"`+b64(sealed.Ciphertext)+`"}`)
	if string(open.Plaintext) != "secret" {
		t.Errorf("%+v", open)
	}
	call1[wire.Key](s, "POST", "/keys", `{"name":"after","algorithm":"AES-256-GCM"}`)
	// The answer that was sealed under the old root is not shown again, and no other is made in its place.
	refused(t, repeated(), 409, fault.IdempotencyConflict)
	again := call1[wire.Job](s, "POST", "/keys/reseal", `{"backend":"default"}`)
	if again.Kind != "reseal" {
		t.Errorf("%+v", again)
	}
}

package deploy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

type values = map[string]any

// plain is the least that PostgreSQL needs.
func plain() values {
	return values{
		"store": values{"url": "postgres://keywright@db/keywright", "passwordSecret": values{"name": "db"}},
		"tls":   values{"secret": "tls"},
		"root":  values{"secret": values{"name": "root"}},
	}
}

// with puts values over others, at a dotted path.
func with(v values, path string, value any) values {
	at := v
	steps := strings.Split(path, ".")
	for _, s := range steps[:len(steps)-1] {
		next, ok := at[s].(values)
		if !ok {
			next = values{}
			at[s] = next
		}
		at = next
	}
	at[steps[len(steps)-1]] = value
	return v
}

func chartOf(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(deploy + "helm/keywright")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render gives the objects by kind and name, as Helm's own engine makes them and Kubernetes' own types take them.
func render(t *testing.T, v values) (map[string]string, error) {
	t.Helper()
	c := chartOf(t)
	full, err := chartutil.ToRenderValues(c, v, chartutil.ReleaseOptions{Name: "kw", Namespace: "keys", IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err // the schema's too
	}
	files, err := engine.Engine{Strict: true}.Render(c, full)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, text := range files {
		if strings.HasSuffix(name, "NOTES.txt") {
			out["NOTES"] = text
			continue
		}
		for _, one := range releaseutil.SplitManifests(text) {
			var head releaseutil.SimpleHead
			if err := yaml.UnmarshalStrict([]byte(one), &values{}); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, one)
			}
			if err := yaml.Unmarshal([]byte(one), &head); err != nil {
				t.Fatal(err)
			}
			if head.Kind != "" {
				out[head.Kind+"/"+head.Metadata.Name] = one
			}
		}
	}
	return out, nil
}

// decode takes an object strictly: a field that Kubernetes does not know is an error.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var out T
	if err := yaml.UnmarshalStrict([]byte(text), &out); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

func TestChart(t *testing.T) {
	objects, err := render(t, plain())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ConfigMap/kw-keywright", "NOTES", "NetworkPolicy/kw-keywright", "PodDisruptionBudget/kw-keywright", "Service/kw-keywright", "Service/kw-keywright-nodes",
		"ServiceAccount/kw-keywright", "StatefulSet/kw-keywright"}
	if got := slices.Sorted(maps.Keys(objects)); !slices.Equal(got, want) {
		t.Fatalf("objects %v", got)
	}
	set := decode[appsv1.StatefulSet](t, objects["StatefulSet/kw-keywright"])
	pod := set.Spec.Template
	if *set.Spec.Replicas != 2 || set.Spec.ServiceName != "kw-keywright-nodes" || len(set.Spec.VolumeClaimTemplates) != 1 {
		t.Errorf("%+v", set.Spec)
	}
	for k, v := range set.Spec.Selector.MatchLabels {
		if pod.Labels[k] != v {
			t.Errorf("the pods lack the label %s", k)
		}
	}
	held(t, pod.Spec)
	c := pod.Spec.Containers[0]
	if p := c.ReadinessProbe.HTTPGet; p == nil || p.Path != "/ready" || p.Scheme != corev1.URISchemeHTTPS {
		t.Errorf("readiness: %+v", c.ReadinessProbe)
	}
	if p := c.LivenessProbe.HTTPGet; p == nil || p.Path != "/health" {
		t.Errorf("liveness: %+v", c.LivenessProbe)
	}
	service := decode[corev1.Service](t, objects["Service/kw-keywright"])
	for k, v := range service.Spec.Selector {
		if pod.Labels[k] != v {
			t.Errorf("the service looks for %s=%s", k, v)
		}
	}
	budget := decode[policyv1.PodDisruptionBudget](t, objects["PodDisruptionBudget/kw-keywright"])
	if budget.Spec.MinAvailable.IntValue() != 1 {
		t.Errorf("%+v", budget.Spec)
	}
	policy := decode[networkingv1.NetworkPolicy](t, objects["NetworkPolicy/kw-keywright"])
	if len(policy.Spec.PolicyTypes) != 2 || len(policy.Spec.Ingress) != 2 || len(policy.Spec.Egress) != 2 || len(policy.Spec.Ingress[0].From) != 1 {
		t.Errorf("%+v", policy.Spec)
	}
	configured(t, objects, "postgres://keywright@db/keywright")
}

// held wants a pod that can do nothing but its work, and mounts for every file that is named.
func held(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	s := pod.SecurityContext
	if !*s.RunAsNonRoot || *s.RunAsUser != 10001 || *s.FSGroup != 10001 || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || *pod.AutomountServiceAccountToken {
		t.Errorf("the pod: %+v", s)
	}
	volumes := map[string]corev1.Volume{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = v
		if v.Secret != nil && *v.Secret.DefaultMode != 0o440 {
			t.Errorf("the secret %s has mode %o", v.Name, *v.Secret.DefaultMode)
		}
	}
	for _, c := range pod.Containers {
		s := c.SecurityContext
		if !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("the container: %+v", s)
		}
		for _, m := range c.VolumeMounts {
			if _, ok := volumes[m.Name]; !ok && m.Name != "data" {
				t.Errorf("nothing to mount as %s", m.Name)
			}
			delete(volumes, m.Name)
		}
	}
	if len(volumes) != 0 {
		t.Errorf("volumes that nobody mounts: %v", volumes)
	}
}

// configured wants the settings in the ConfigMap, and that each file that they name is mounted. The program's own check reads them too: see deploy.
func configured(t *testing.T, objects map[string]string, parts ...string) {
	t.Helper()
	text := decode[corev1.ConfigMap](t, objects["ConfigMap/kw-keywright"]).Data["keywright.yaml"]
	set := objects["StatefulSet/kw-keywright"]
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in the configuration:\n%s", p, text)
		}
	}
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" =&\n:", r) }) {
		if strings.HasPrefix(word, "/run/secrets/keywright/") && !strings.Contains(set, "mountPath: "+filepath.Dir(word)+",") {
			t.Errorf("%s is not mounted", word)
		}
	}
	// The service's own check minds nothing but the files, which are in the pod and not here.
	path := filepath.Join(t.TempDir(), "keywright.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program(t), "config", "check", "--config", path, "-o", "json").Output()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	var found struct {
		Findings []struct{ Level, Setting, Problem string }
	}
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, f := range found.Findings {
		if f.Level == "error" && !strings.Contains(f.Problem, "no such file") && !strings.Contains(f.Problem, "pin-source names cannot be read") && !strings.Contains(f.Problem, "or a file that it names") {
			t.Errorf("the service would not start: %s: %s", f.Setting, f.Problem)
		}
	}
}

var built struct {
	sync.Once
	path string
	err  error
}

// program builds the service, once.
func program(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		cmd := exec.Command("go", "build", "-o", built.path, "./cmd/keywright")
		cmd.Dir = "../.."
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "kwjudge")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built.path = filepath.Join(dir, "keywright")
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		code = 1
	}
	os.Exit(code)
}

func probes(c corev1.Container) []*corev1.Probe {
	return []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe}
}

func TestChartVariants(t *testing.T) {
	for name, c := range map[string]struct {
		values values
		parts  []string
		check  func(*testing.T, map[string]string)
	}{
		"sqlite": {with(with(plain(), "store", values{"kind": "sqlite"}), "replicas", 1), []string{"passphrase_file"}, func(t *testing.T, o map[string]string) {
			if _, ok := o["PodDisruptionBudget/kw-keywright"]; ok {
				t.Error("a budget that keeps the only node from ever moving")
			}
			if p := decode[networkingv1.NetworkPolicy](t, o["NetworkPolicy/kw-keywright"]); len(p.Spec.Egress) != 1 {
				t.Errorf("%+v", p.Spec.Egress)
			}
		}},
		"a CA of the database": {with(with(plain(), "store.caSecret", values{"name": "ca", "key": "tls.crt"}), "store.url", "postgres://keywright@db/keywright?application_name=x"),
			[]string{"application_name=x&sslrootcert=/run/secrets/keywright/db-ca/ca.pem"}, nil},
		"client certificates": {with(with(plain(), "tls.clientAuth", "required"), "tls.clientCASecret.name", "clients"), []string{"client_auth: required", "client-ca/ca.pem"}, func(t *testing.T, o map[string]string) {
			c := decode[appsv1.StatefulSet](t, o["StatefulSet/kw-keywright"]).Spec.Template.Spec.Containers[0]
			if c.ReadinessProbe.Exec == nil || slices.Contains(c.ReadinessProbe.Exec.Command, "--live") || !slices.Contains(c.LivenessProbe.Exec.Command, "--live") {
				t.Errorf("%+v", c.ReadinessProbe)
			}
		}},
		"an HSM": {with(with(with(plain(), "backends", []any{values{"name": "hsm", "uri": "pkcs11:token=a?module-path=/m.so&pin-source=file:/run/secrets/keywright/hsm/pin", "pkcs11": values{"placement": "wrapped"}}}),
			"secretMounts", []any{values{"name": "hsm", "secretName": "hsm"}}), "root", values{"kind": "device", "device": "hsm"}), []string{"device: hsm", "placement: wrapped"}, nil},
		"behind a balancer": {with(with(plain(), "proxyProtocol", true), "trustedProxies", []any{"10.0.0.0/8", "fd00::7"}), []string{"proxy_protocol: true", "address: 0.0.0.0:8200", "- unix:/run/keywright/api.sock", "- fd00::7"},
			func(t *testing.T, o map[string]string) {
				// The kubelet sends no header, and may stand where a balancer does.
				for _, p := range probes(decode[appsv1.StatefulSet](t, o["StatefulSet/kw-keywright"]).Spec.Template.Spec.Containers[0]) {
					if p == nil || p.Exec == nil || p.HTTPGet != nil {
						t.Errorf("%+v", p)
					}
				}
			}},
		"behind a proxy": {with(plain(), "trustedProxies", []any{"10.0.0.7"}), []string{"trusted_proxies:", "- 10.0.0.7", "- 0.0.0.0:8200"}, func(t *testing.T, o map[string]string) {
			for _, p := range probes(decode[appsv1.StatefulSet](t, o["StatefulSet/kw-keywright"]).Spec.Template.Spec.Containers[0]) {
				if p == nil || p.HTTPGet == nil {
					t.Errorf("%+v", p)
				}
			}
		}},
		"more settings": {with(plain(), "config", values{"limits": values{"connections": 9}, "log": values{"level": "debug"}}), []string{"connections: 9", "level: debug", "format: json"}, nil},
		"monitoring": {with(plain(), "serviceMonitor.enabled", true), nil, func(t *testing.T, o map[string]string) {
			if !strings.Contains(o["ServiceMonitor/kw-keywright"], "app.kubernetes.io/component: nodes") {
				t.Error("there is no monitor, or one for another service")
			}
		}},
		"by digest": {with(plain(), "image.digest", "sha256:"+strings.Repeat("0", 64)), nil, func(t *testing.T, o map[string]string) {
			if !strings.Contains(o["StatefulSet/kw-keywright"], "image: keywright@sha256:0000") {
				t.Error("another image")
			}
		}},
		"locked": {with(plain(), "root", values{"kind": "none"}), nil, func(t *testing.T, o map[string]string) {
			if !strings.Contains(o["NOTES"], "keywright unlock") {
				t.Error("nobody is told to unlock it")
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := render(t, c.values)
			if err != nil {
				t.Fatal(err)
			}
			held(t, decode[appsv1.StatefulSet](t, objects["StatefulSet/kw-keywright"]).Spec.Template.Spec)
			configured(t, objects, c.parts...)
			if c.check != nil {
				c.check(t, objects)
			}
		})
	}
}

// TestChartRefuses: what cannot work is said when the chart is rendered, by the schema.
func TestChartRefuses(t *testing.T) {
	for name, v := range map[string]values{
		"nothing":           {},
		"no TLS":            with(plain(), "tls", values{"secret": ""}),
		"no database":       with(plain(), "store.url", ""),
		"a password in it":  with(plain(), "store.url", "postgres://a:b@c/d"),
		"no password":       with(plain(), "store.passwordSecret.name", ""),
		"two on SQLite":     with(plain(), "store", values{"kind": "sqlite"}),
		"no root":           with(plain(), "root", values{"kind": "passphrase"}),
		"no device":         with(plain(), "root", values{"kind": "device"}),
		"nobody's CA":       with(plain(), "tls.clientAuth", "optional"),
		"a PIN in clear":    with(plain(), "backends", []any{values{"name": "a", "uri": "pkcs11:token=a?module-path=/m.so&pin-value=1"}}),
		"no backend":        with(plain(), "backends", []any{}),
		"unknown":           with(plain(), "replica", 2),
		"the chart's own":   with(plain(), "config", values{"listen": "0.0.0.0:1"}),
		"one connection":    with(plain(), "store.connections", 1),
		"a short digest":    with(plain(), "image.digest", "sha256:00"),
		"nobody to believe": with(plain(), "proxyProtocol", true),
		"believed by name":  with(plain(), "trustedProxies", []any{"balancer"}),
		"half an address":   with(plain(), "trustedProxies", []any{"10.0.0/8"}),
		"none of the kinds": with(plain(), "store.kind", "mysql"),
	} {
		if _, err := render(t, v); err == nil || !strings.Contains(err.Error(), "schema") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

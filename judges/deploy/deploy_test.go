// Package deploy_test lets the programs' own parsers judge what is in deploy/: they share no code with us.
package deploy_test

import (
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	promql "github.com/prometheus/prometheus/promql/parser"
)

const deploy = "../../deploy/"

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestContainerfile: BuildKit takes it, and the last stage is what it promises to be.
func TestContainerfile(t *testing.T) {
	text := read(t, deploy+"container/Containerfile")
	tree, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Warnings) > 0 {
		t.Errorf("warnings: %v", tree.Warnings)
	}
	stages, _, err := instructions.Parse(tree.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(stages) != 2 || stages[0].Name != "build" {
		t.Fatalf("%d stages", len(stages))
	}
	release := regexp.MustCompile(`bookworm`)
	var user, health, entry string
	for i, s := range stages {
		if !release.MatchString(s.BaseName) {
			t.Errorf("stage %d is on %s: the C libraries have to be of one release", i, s.BaseName)
		}
		for _, c := range s.Commands {
			switch c := c.(type) {
			case *instructions.UserCommand:
				user = c.User
			case *instructions.HealthCheckCommand:
				if health = strings.Join(c.Health.Test, " "); c.Health.Test[0] != "CMD" {
					t.Errorf("the health check needs a shell: %s", health)
				}
			case *instructions.EntrypointCommand:
				if entry = strings.Join(c.CmdLine, " "); c.PrependShell {
					t.Error("the entry point needs a shell, and signals end there")
				}
			case *instructions.AddCommand:
				t.Error("ADD fetches and unpacks: COPY")
			case *instructions.CopyCommand:
				if i == 1 && c.From != "build" {
					t.Errorf("the last stage takes %v from the outside", c.SourcePaths)
				}
			case *instructions.RunCommand:
				if i == 1 {
					t.Error("the last stage runs something: it is to be the base and what was built")
				}
			}
		}
	}
	if user != "10001:10001" || health != "CMD /usr/bin/keywright health --timeout 4s" || entry != "/usr/bin/keywright" {
		t.Errorf("user %q, health check %q, entry point %q", user, health, entry)
	}
	if strings.Contains(strings.ToLower(text), "softhsm") {
		t.Error("SoftHSM is in the image")
	}
}

// TestCompose: Compose's own loader takes the file, and every service is held as tight as it can be.
func TestCompose(t *testing.T) {
	dir := deploy + "compose"
	for _, profiles := range [][]string{nil, {"monitoring"}} {
		o, err := cli.NewProjectOptions([]string{dir + "/compose.yaml"}, cli.WithWorkingDirectory(dir), cli.WithProfiles(profiles),
			cli.WithEnv([]string{"KEYWRIGHT_UID=10001", "KEYWRIGHT_GID=10001"}))
		if err != nil {
			t.Fatal(err)
		}
		p, err := o.LoadProject(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"balancer", "node1", "node2", "postgres"}
		if profiles != nil {
			want = []string{"balancer", "grafana", "node1", "node2", "postgres", "prometheus"}
		}
		if got := p.ServiceNames(); !slices.Equal(got, want) {
			t.Errorf("services %v, want %v", got, want)
		}
		for name, s := range p.Services {
			if strings.HasPrefix(name, "node") && (!s.ReadOnly || s.User != "10001:10001" || !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.SecurityOpt) == 0) {
				t.Errorf("%s is not held: %+v", name, s)
			}
			for _, c := range s.Configs {
				if f := p.Configs[c.Source].File; read(t, f) == "" {
					t.Errorf("%s: %s is empty", name, f)
				}
			}
			if s.Privileged || s.NetworkMode == "host" {
				t.Errorf("%s is let out", name)
			}
		}
		script := read(t, dir+"/secrets.sh")
		for name, s := range p.Secrets {
			base, _, _ := strings.Cut(name, ".")
			if !strings.Contains(s.File, ".state/secrets/"+name) || !strings.Contains(script, "$s/"+name) && !strings.Contains(script, "pair "+base+" ") {
				t.Errorf("nobody makes the secret %s (%s)", name, s.File)
			}
		}
	}
	o, err := cli.NewProjectOptions([]string{dir + "/compose.yaml"}, cli.WithWorkingDirectory(dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.LoadProject(t.Context()); err == nil || !strings.Contains(err.Error(), "run secrets.sh first") {
		t.Errorf("without secrets: %v", err)
	}
}

// TestRules: Prometheus reads the alerts and their expressions, and they ask for metrics that the program has.
func TestRules(t *testing.T) {
	groups, errs := rulefmt.ParseFile(deploy+"prometheus/rules.yaml", false, model.UTF8Validation, promql.NewParser(promql.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if len(groups.Groups) != 1 || len(groups.Groups[0].Rules) < 10 {
		t.Fatalf("%+v", groups)
	}
}

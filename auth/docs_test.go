package auth

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestGuide holds the tables of docs/guides/access.md against those of this package.
func TestGuide(t *testing.T) {
	page, err := os.ReadFile("../docs/guides/access.md")
	if err != nil {
		t.Fatal(err)
	}
	section := func(heading string) string {
		_, rest, found := strings.Cut(string(page), "\n## "+heading+"\n")
		if !found {
			t.Fatalf("the page has no section %s", heading)
		}
		text, _, _ := strings.Cut(rest, "\n## ")
		return text
	}
	code := regexp.MustCompile("`([^`]+)`")
	names := func(cell string) (out []Scope) {
		for _, m := range code.FindAllStringSubmatch(cell, -1) {
			if resource, all := strings.CutSuffix(m[1], ":*"); all {
				for _, q := range Scopes() {
					if strings.HasPrefix(string(q), resource+":") {
						out = append(out, q)
					}
				}
				continue
			}
			out = append(out, Scope(m[1]))
		}
		return out
	}
	rows := func(text string) (out [][2]string) {
		for line := range strings.Lines(text) {
			cells := strings.Split(strings.TrimSpace(line), " | ")
			if len(cells) == 2 && strings.HasPrefix(cells[0], "| ") && !strings.HasPrefix(cells[0], "| ---") {
				out = append(out, [2]string{strings.TrimPrefix(cells[0], "| "), strings.TrimSuffix(cells[1], " |")})
			}
		}
		return out
	}
	inTenant, deployed, found := strings.Cut(section("Scopes"), "\nScopes over the deployment")
	if !found {
		t.Fatal("the page does not tell the scopes of the deployment from the others")
	}
	var documented []Scope
	for _, part := range []struct {
		text       string
		deployment bool
	}{{inTenant, false}, {deployed, true}} {
		for _, row := range rows(part.text) {
			for _, q := range names(row[0]) {
				documented = append(documented, q)
				if q.Deployment() != part.deployment {
					t.Errorf("%s stands in the wrong table", q)
				}
				if covers := q.Covers(); covers != nil && !slices.Equal(names(row[1]), covers) {
					t.Errorf("the page says that %s covers %s; it covers %s", q, names(row[1]), covers)
				}
			}
		}
	}
	all := Scopes()
	slices.Sort(documented)
	slices.Sort(all)
	if !slices.Equal(documented, all) {
		t.Errorf("the page has the scopes\n%s, the code\n%s", documented, all)
	}

	var tenant []Scope // everything in a tenant
	for _, q := range Scopes() {
		if !q.Deployment() && q.Covers() == nil {
			tenant = append(tenant, q)
		}
	}
	roles := Roles()
	for _, row := range rows(section("Roles")) {
		if row[0] == "role" {
			continue
		}
		i := slices.IndexFunc(roles, func(r RoleInfo) bool { return string(r.Role) == row[0] })
		if i < 0 {
			t.Fatalf("the page has the role %s, the code has left %v", row[0], roles)
		}
		want := names(row[1])
		switch {
		case strings.HasPrefix(row[1], "everything in the tenant"):
			want = tenant
		case strings.HasPrefix(row[1], "the same without"):
			want = slices.DeleteFunc(slices.Clone(tenant), func(q Scope) bool { return slices.Contains(want, q) })
		}
		if SetOf(want...) != SetOf(roles[i].Scopes...) {
			t.Errorf("the page gives %s the scopes %s, the code %s", row[0], want, roles[i].Scopes)
		}
		roles = slices.Delete(roles, i, i+1)
	}
	if len(roles) != 0 {
		t.Errorf("the page lacks the roles %v", roles)
	}
}

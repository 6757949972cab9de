// Package docs holds the documentation together: translations stay in step with their
// original, and links lead to files that are there.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// page is what a translation has to have in common with its original.
type page struct {
	headings []string // the marks alone, such as "##"
	fenced   []string // lines of code blocks; commands without their comment
	code     []string // code in running text and tables, sorted, each once
	reasons  []string // first column of the last table, a row each
	links    []string // targets in running text and tables
	numbers  []string // of two digits and more, in running text and tables, sorted
}

var (
	inlineCode = regexp.MustCompile("`[^`]+`")
	linkTarget = regexp.MustCompile(`\]\(([^)\s]+)[^)]*\)`)
	heading    = regexp.MustCompile(`^#+ `)
	comment    = regexp.MustCompile(`\s+#\s.*$`)
	number     = regexp.MustCompile(`\d{2,}`)
)

func readPage(t *testing.T, file string) page {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return parse(string(data))
}

func parse(text string) page {
	var p page
	fenced, inTable := false, false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
			p.fenced = append(p.fenced, line)
			continue
		case fenced:
			if strings.HasPrefix(strings.TrimPrefix(line, "$ "), "kubepki ") {
				line = comment.ReplaceAllString(line, "")
			}
			p.fenced = append(p.fenced, line)
			continue
		case heading.MatchString(line):
			p.headings = append(p.headings, strings.TrimSpace(heading.FindString(line)))
		}
		row := strings.HasPrefix(line, "|")
		if row && !inTable {
			p.reasons = nil
		}
		inTable = row
		if row {
			if codes := inlineCode.FindAllString(strings.Split(line, "|")[1], -1); codes != nil {
				p.reasons = append(p.reasons, strings.Join(codes, " "))
			}
		}
		p.code = append(p.code, inlineCode.FindAllString(line, -1)...)
		prose := inlineCode.ReplaceAllString(line, "")
		for _, m := range linkTarget.FindAllStringSubmatch(prose, -1) {
			p.links = append(p.links, m[1])
		}
		p.numbers = append(p.numbers, number.FindAllString(linkTarget.ReplaceAllString(prose, ""), -1)...)
	}
	slices.Sort(p.code)
	p.code = slices.Compact(p.code)
	slices.Sort(p.numbers)
	return p
}

// elsewhere are the links of a page that do not lead to another language, sorted.
func (p page) elsewhere() []string {
	links := slices.DeleteFunc(slices.Clone(p.links), func(target string) bool { return slices.Contains(slices.Concat(translated...), target) })
	slices.Sort(links)
	return links
}

// translated are the pages in docs that say the same in several languages, the original first.
var translated = [][]string{{"recover.md", "recover.ja.md", "recover.zh.md"}, {"kubelet.md", "kubelet.ja.md", "kubelet.zh.md"}}

// The English page is the original. Commands, output, names, numbers and reasons are the
// same in every language.
func TestTranslationsStayInStep(t *testing.T) {
	for _, languages := range translated {
		t.Run(languages[0], func(t *testing.T) { stayInStep(t, languages) })
	}
}

func stayInStep(t *testing.T, languages []string) {
	t.Helper()
	original := readPage(t, filepath.Join(root, "docs", languages[0]))
	for what, have := range map[string][]string{
		"headings": original.headings, "fenced lines": original.fenced, "code": original.code, "reasons": original.reasons,
		"numbers": original.numbers, "links": original.elsewhere(),
	} {
		if len(have) < 2 {
			t.Fatalf("docs/%s has only %d %s: this test does not understand it any more", languages[0], len(have), what)
		}
	}
	for _, name := range languages[1:] {
		t.Run(name, func(t *testing.T) {
			other := readPage(t, filepath.Join(root, "docs", name))
			same(t, "headings", original.headings, other.headings)
			same(t, "fenced lines", original.fenced, other.fenced)
			same(t, "code", original.code, other.code)
			same(t, "reasons of the last table", original.reasons, other.reasons)
			same(t, "numbers", original.numbers, other.numbers)
			same(t, "links", original.elsewhere(), other.elsewhere())
		})
	}
}

// same names the first place where two pages part.
func same(t *testing.T, what string, want, have []string) {
	t.Helper()
	for i := range max(len(want), len(have)) {
		switch {
		case i >= len(have):
			t.Errorf("%s: lacks %q of the original", what, want[i])
		case i >= len(want):
			t.Errorf("%s: the original does not have %q", what, have[i])
		case want[i] != have[i]:
			t.Errorf("%s, number %d: %q, the original has %q", what, i+1, have[i], want[i])
		default:
			continue
		}
		return
	}
}

func TestLanguagesLeadToEachOther(t *testing.T) {
	for _, languages := range translated {
		for _, name := range languages {
			links := readPage(t, filepath.Join(root, "docs", name)).links
			for _, other := range languages {
				if other != name && !slices.Contains(links, other) {
					t.Errorf("docs/%s has no link to %s", name, other)
				}
			}
		}
	}
}

func TestRelativeLinksLeadToFiles(t *testing.T) {
	files := []string{filepath.Join(root, "README.md")}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	followed := 0
	for _, file := range files {
		for _, target := range readPage(t, file).links {
			target, _, _ = strings.Cut(target, "#")
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			followed++
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), target)); err != nil {
				t.Errorf("%s: the link to %s leads nowhere: %v", file, target, err)
			}
		}
	}
	if followed < 20 {
		t.Errorf("only %d relative links were found: this test does not see them any more", followed)
	}
}

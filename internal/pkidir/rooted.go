package pkidir

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxLinks is how many symbolic links are followed in one path, the number Linux takes.
const maxLinks = 40

// belowRoot returns where a clean, absolute path of a machine lies on this one, with root in
// front. Symbolic links are followed as that machine would follow them: an absolute target,
// such as that of kubelet-client-current.pem, starts at root, and .. does not lead out of it.
// The last name is followed only with last. What does not exist is taken as it is, and so is
// a path with too many links.
func belowRoot(root, name string, last bool) string {
	links, current, rest := 0, "/", parts(name)
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		if part == ".." {
			current = filepath.Dir(current)
			continue
		}
		next := filepath.Join(current, part)
		target := ""
		if last || len(rest) > 0 {
			target, _ = os.Readlink(filepath.Join(root, next))
		}
		if target == "" {
			current = next
			continue
		}
		if links++; links > maxLinks {
			return filepath.Join(root, name)
		}
		if filepath.IsAbs(target) {
			current = "/"
		}
		rest = append(parts(target), rest...)
	}
	return filepath.Join(root, current)
}

// parts splits a path at its slashes; empty parts and "." say nothing.
func parts(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(part string) bool { return part == "" || part == "." })
}

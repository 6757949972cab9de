// Package headroom keeps the garbage collector away while the program starts. What the libraries set up before main
// (types of the API, descriptors, metrics) is more than the 4 MiB at which collections begin, and lives as long as the
// process: collecting it frees nothing, and adds a third to what a short command costs.
//
// Import it, and call End in what stays or goes through much. Packages are initialized in the order of their paths as
// far as their imports allow, so this one, which imports next to nothing, comes before the libraries that are large.
// Where GOGC is set in the environment, that counts alone.
package headroom

import (
	"os"
	"runtime/debug"
)

// percent lets collections begin at 12 MiB. A short command may then hold four times what it needs, not twice.
const percent = 300

// Usual is what the collector goes by where nobody says otherwise (runtime/debug.SetGCPercent).
const Usual = 100

func init() { set(percent) }

// End sets by how many per cent memory may grow between collections from now on.
func End(percent int) { set(percent) }

func set(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

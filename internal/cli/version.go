package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the release build; otherwise the module's own version counts.
var version = ""

// Version is what "version -o json" prints.
type Version struct {
	Version   string `json:"version"`
	Commit    string `json:"commit,omitempty"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
}

func currentVersion() Version {
	v := Version{Version: version, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	return v
}

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := currentVersion()
			switch {
			case a.output == "short":
				_, err := fmt.Fprintln(a.Stdout, v.Version)
				return err
			case a.isText():
				_, err := fmt.Fprintf(a.Stdout, "kubepki version: %s (%s, %s)\n", v.Version, v.GoVersion, v.Platform)
				return err
			}
			return a.printStructured(v)
		},
	}
	formats(cmd, "text", "short", structured)
	return cmd
}

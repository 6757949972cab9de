package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
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

// manCommand writes the manual pages from the same texts as the help.
func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages into a directory",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := filepath.Clean(args[0])
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			now := a.Now()
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "kubepki", Manual: "kubepki", Date: &now}, dir)
		},
	}
}

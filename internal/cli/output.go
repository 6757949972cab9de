package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/yaml"
	"sigs.k8s.io/yaml/kyaml"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// annotationFormats holds a command's --output formats, for help, checks and completion.
const annotationFormats = "formats"

// structured are the formats that printStructured knows: those of kubectl and kubeadm. Their
// engines are used here without cli-runtime's printers, which would double the time that
// the program takes to start.
const structured = "json yaml kyaml jsonpath=TEMPLATE jsonpath-as-json=TEMPLATE jsonpath-file=FILE " +
	"go-template=TEMPLATE go-template-file=FILE template=TEMPLATE templatefile=FILE"

// maxTemplate bounds a template file, in bytes.
const maxTemplate = 1 << 20

// formats declares the --output formats of a command; the first one is the default.
func formats(cmd *cobra.Command, lists ...string) {
	all := strings.Join(lists, " ")
	cmd.Annotations = map[string]string{annotationFormats: all}
	cmd.Long += "\n\nOutput formats (-o): " + strings.Join(strings.Fields(all), ", ") + "."
}

// hasFormat says whether a command declared the wanted format.
func hasFormat(cmd *cobra.Command, output string) bool {
	name, _, _ := strings.Cut(output, "=")
	return slices.ContainsFunc(strings.Fields(cmd.Annotations[annotationFormats]), func(f string) bool {
		known, _, _ := strings.Cut(f, "=")
		return known == name
	})
}

// printStructured writes value, a struct with json tags, to stdout in the format that
// --output names.
func (a *app) printStructured(value any) error {
	name, argument, _ := strings.Cut(a.output, "=")
	switch name {
	case "json":
		return a.printJSON(value)
	case "yaml":
		data, err := yaml.Marshal(value)
		if err == nil {
			_, err = a.Stdout.Write(data)
		}
		return err
	case "kyaml":
		return new(kyaml.Encoder).FromObject(value, a.Stdout)
	}
	if file, ok := strings.CutSuffix(name, "file"); ok {
		data, err := atomicfile.ReadFile(argument, maxTemplate)
		if err != nil {
			return &misuseError{fmt.Errorf("--output %s: %w", name, err)}
		}
		name, argument = strings.TrimSuffix(file, "-"), string(data)
	}
	if argument == "" {
		return misuse("--output %s: want %s=TEMPLATE", name, name)
	}
	// Templates see what JSON shows, names and all.
	object, err := throughJSON(value)
	if err != nil {
		return err
	}
	if name == "jsonpath" || name == "jsonpath-as-json" {
		return a.printPath(argument, object, name == "jsonpath-as-json")
	}
	return a.printTemplate(argument, object)
}

func (a *app) printJSON(value any) error {
	data, err := json.MarshalIndent(value, "", "    ")
	if err != nil {
		return err
	}
	_, err = a.Stdout.Write(append(data, '\n'))
	return err
}

func throughJSON(value any) (any, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var object any
	return object, json.Unmarshal(data, &object)
}

// printPath prints by a template of kubectl's JSONPath; asJSON makes the findings a list.
func (a *app) printPath(text string, object any, asJSON bool) error {
	// As kubectl does, so that jsonpath=.items works as well as jsonpath={.items}.
	if !strings.Contains(text, "{") {
		text = "{" + text + "}"
	}
	path := jsonpath.New("output").AllowMissingKeys(true)
	if err := path.Parse(text); err != nil {
		return misuse("--output jsonpath: %w", err)
	}
	path.EnableJSONOutput(asJSON)
	if err := path.Execute(a.Stdout, object); err != nil {
		return misuse("--output jsonpath: %w", err)
	}
	return nil
}

func (a *app) printTemplate(text string, object any) error {
	parsed, err := template.New("output").Parse(text)
	if err != nil {
		return misuse("--output go-template: %w", err)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, object); err != nil {
		return misuse("--output go-template: %w", err)
	}
	_, err = io.Copy(a.Stdout, &out)
	return err
}

// isText says whether the human form of the output is wanted.
func (a *app) isText() bool { return a.output == "" || a.output == "text" }

// serial writes a serial number in hex, as openssl x509 -serial does.
func serial(n *big.Int) string {
	text := strings.ToUpper(n.Text(16))
	if len(text)%2 == 1 && n.Sign() >= 0 {
		text = "0" + text
	}
	return text
}

// byName returns entries sorted as in kubeadm's reports.
func byName(entries []layout.Entry) []layout.Entry {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b layout.Entry) int { return strings.Compare(a.Name, b.Name) })
	return sorted
}

// nameList lists entries with their labels for a help page.
func nameList(entries []layout.Entry) string {
	var text strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&text, "\n  %-25s %s", e.Name, e.Label)
	}
	return text.String()
}

func completeAlgorithms(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, a := range pki.Algorithms() {
		names = append(names, string(a))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func completeFormats(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, f := range strings.Fields(cmd.Annotations[annotationFormats]) {
		name, argument, _ := strings.Cut(f, "=")
		if argument != "" {
			name += "="
		}
		names = append(names, name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

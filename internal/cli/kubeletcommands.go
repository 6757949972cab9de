package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/kubepki/kubepki/internal/kube"
)

// printCommands tells what to run where.
func (r *kubeletSwitchRun) printCommands(ctx context.Context) error {
	client, err := r.client()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	nodes, err := client.Nodes(ctx)
	if err != nil {
		return err
	}
	// A control plane first: it has the credentials for the ConfigMap.
	slices.SortStableFunc(nodes, func(a, b kube.Node) int {
		return slices.Index([]bool{true, false}, a.ControlPlane) - slices.Index([]bool{true, false}, b.ControlPlane)
	})
	commands := NodeCommandList{SchemaVersion: kubeletSwitchSchema, Commands: []NodeCommand{}}
	for i, node := range nodes {
		command := r.words()
		if i > 0 {
			command += " --node-only"
		}
		commands.Commands = append(commands.Commands, NodeCommand{node.Name, command})
	}
	if !r.app.isText() {
		return r.app.printStructured(commands)
	}
	for _, c := range commands.Commands {
		fmt.Fprintf(r.app.Stdout, "ssh %s %s\n", quoted(c.Node), c.Command)
	}
	return nil
}

// NodeCommandList is what --all-nodes prints with -o json.
type NodeCommandList struct {
	SchemaVersion string        `json:"schemaVersion"`
	Commands      []NodeCommand `json:"commands"`
}

// NodeCommand is what to run on one node.
type NodeCommand struct {
	Node    string `json:"node"`
	Command string `json:"command"`
}

// Package chart holds the tests of deploy/chart, as a module of its own: only they need Helm.
package chart

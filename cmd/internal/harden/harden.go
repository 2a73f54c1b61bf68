// Package harden keeps what a process holds in memory out of files and out of
// the reach of other processes, as far as the system offers it.
package harden

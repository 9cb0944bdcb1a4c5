package vm

import "os"

// Main must be the first thing that the main of a binary with [Machine] does. As
// PID 1 of the guest it does not return; otherwise it returns at once.
func Main() {
	switch {
	case os.Getpid() == 1 && exists(jobFile):
		guestMain()
	case os.Getpid() == 1 && exists(systemFile):
		systemMain()
	case os.Args[0] == agentName:
		agentMain()
	case os.Args[0] == probeName:
		probeMain()
	}
}

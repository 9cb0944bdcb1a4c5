package vm

// Follower judges one program that runs elsewhere than in a [Machine], as [Examine]
// does it: what the program writes is written to it, then comes End.
type Follower struct {
	Rules   *Rules // nil: every skip is allowed
	Release string // the kernel's, for the rules

	tests Tests
	end   tail
}

// Write never fails.
func (f *Follower) Write(data []byte) (int, error) {
	_, _ = f.tests.Write(data) // never fails
	return f.end.Write(data)
}

// End says how the program ended. exit is nil when it did not start; then why says
// what happened. left names processes that outlived it.
func (f *Follower) End(name string, exit *Exit, left []string, why string) Outcome {
	o := Outcome{Name: name}
	o.finish(Event{Kind: EventEnd, Exit: exit, Left: left, Err: why}, &f.tests, &f.end, f.Rules, f.Release)
	return o
}

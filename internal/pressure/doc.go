// Package pressure measures how long programs wait for a resource: the kernel's
// pressure stall information, of the host or of one cgroup.
//
// A [Trigger] wakes whoever polls it when it may be worth to look; while nothing is
// short it costs nothing. A [Meter] decides, from samples that somebody takes after
// that, when pressure begins and when it is over. It has no clock of its own and touches
// nothing.
//
// It is not for deciding what follows from pressure.
package pressure

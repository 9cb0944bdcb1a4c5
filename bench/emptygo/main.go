// Command emptygo does nothing: what the start and the end of any Go program cost on this machine.
package main

func main() {}

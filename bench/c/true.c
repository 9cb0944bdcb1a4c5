// true does nothing: the cost of one fork, exec and wait on this machine.
int main(void)
{
	return 0;
}

"""What runs in the kernel, and the program that loads it. A folder of data: nothing imports it."""

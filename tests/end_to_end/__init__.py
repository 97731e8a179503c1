"""wirepool whole: real hosts, real traffic, real processes, and real ones that get killed."""

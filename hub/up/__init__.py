"""What `wirepool up` runs.

stack          NATS server, hub and this host's agent, each with its readiness; own_agent is the last of them
supervisor     starts them in order and restarts what dies
"""

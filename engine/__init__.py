"""What training and inference need whatever the network and the data: runs, checkpoints, schedules,
devices.
"""

"""How often nothing alarms: fault-free time of a cluster, judged as experiments are (`backburn shams`).

Every start of the cluster is recorded from the moment it serves, look by look (`DIR/start-N/quiet.npz`), whatever it
does by itself. Judging needs no cluster: a sham (`envs.experiment`) begins at every window of the recording, behind the
same gate as always, and is scored against fault-free time that shares no look with it: against the other half of the
same start, as in a run, and against that and all other starts, as where a run has recalled what earlier ones learnt.

Neighbouring shams overlap, and so do not count in full. How many share no window is said beside them.
"""

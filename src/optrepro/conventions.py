"""Numbers and names that several stages share."""

FLOOR = 1e-12  # chosen: smaller normalized regrets are rounding errors of the function values and count as equal
ALPHA = 0.05  # significance level of every test; confidence intervals have level 95 %
POP = "pop"  # name of the row of POP's shipped policy, which the other rows are compared with
PSD = "psd"  # name of the row of Predicted Step Descent, which the other rows are compared with
TIME_IS_UP = 75  # exit status of a job whose time slice ended; its state is saved, and the next attempt resumes

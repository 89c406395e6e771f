"""How notebooks of students are run and judged; `python -m contlearn.grade` is the command.

A student's code runs in a process of its own (`kernel`), which is confined (`confine`) and can be killed with all that
it started (`supervise`). What comes out of that process is data, numbers and names (`messages`), never an object and
never a verdict: the checks of `contlearn.exercises` run in the grader, on inputs drawn for this run.
"""

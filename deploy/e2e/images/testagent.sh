#!/bin/bash
# Stands for a runner in the contract of agent.Runtime: it writes its environment, notes its start, and runs until it is asked to end.
env | sort >"$WORKSPACE_PATH/env"
echo started >>"$WORKSPACE_PATH/starts"
[ -n "$END" ] && exit 0
trap 'exit 0' TERM
while :; do sleep 0.05; done

# Runs a node of RabbitMQ from Debian's package in a folder of its own, with an epmd of its own:
#
#     sh rabbitmq.sh FOLDER NAME DISTRIBUTION_PORT EPMD_PORT
#
# The folder holds rabbitmq.conf and enabled_plugins; log and data go there. The first line of output is the process id of
# the node. When standard input ends, so do the node and epmd, by their process ids, and the folder goes unless it holds a
# file "keep". So nothing is left of the node, however the program ends that started it.
folder=$1
cd "$folder" || exit 1
export HOME="$folder" ERL_EPMD_PORT="$4" ERL_EPMD_ADDRESS=127.0.0.1
export RABBITMQ_NODENAME="$2@localhost" RABBITMQ_DIST_PORT="$3" RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_MNESIA_BASE="$folder/data" RABBITMQ_LOG_BASE="$folder/log"
export RABBITMQ_CONFIG_FILE="$folder/rabbitmq.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$folder/enabled_plugins"
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 2:2"
# The script replaces itself by Erlang's machine then, and its process id is the node's.
export RUNNING_UNDER_SYSTEMD=true
epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 </dev/null >/dev/null 2>&1 &
epmd=$!
# Below the wrapper that Debian puts in /usr/sbin, which insists on its own user and folders.
/usr/lib/rabbitmq/bin/rabbitmq-server </dev/null >server.log 2>&1 &
node=$!
echo "$node"
cat >/dev/null
kill -9 "$node"
kill "$epmd"
wait
[ -e keep ] || rm -rf "$folder"

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_rpc: bdev_nvme_attach_controller, _detach_controller, _get_controllers,
 * _get_controller_health_info, _reset_controller, bdev_nvme_set_options by SPDK's names and parameters;
 * bdev_nvme_rescan_controller. Control thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bdev/modules.h"
#include "bdev/nvme/controller.h"
#include "bdev/nvme/namespace.h"
#include "bdev/nvme/options.h"
#include "bdev/nvme/rescan.h"
#include "bdev/nvme/status.h"
#include "bdev/nvme/transports.h"

/* A day. */
#define TIMEOUT_MAX_US 86400000000ull

/* ---- bdev_nvme_attach_controller ---- */

struct attach_params {
	const char *name;
	const char *trtype;
	const char *traddr;
};

static const char *const trtypes[] = {"PCIe", "pcie", "PCIE", "passthrough", NULL};

static const struct rpc_param attach_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct attach_params, name),
	 .required = true,
	 .min = 1,
	 .max = NVME_CONTROLLER_NAME_BYTES - 1,
	 .help = "Name of the controller; its bdevs are called by it: NAMEn1, NAMEn2, ..."},
	{.name = "trtype",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct attach_params, trtype),
	 .required = true,
	 .values = trtypes,
	 .help = "PCIe: Pollux drives the device itself; passthrough: the kernel's driver has it"},
	{.name = "traddr",
	 .type = RPC_STRING,
	 .offset = offsetof(struct attach_params, traddr),
	 .required = true,
	 .min = 1,
	 .max = NVME_ADDRESS_BYTES - 1,
	 .help = "PCI address (0000:01:00.0); for passthrough the path of a namespace's character "
		 "device (/dev/ng0n1)"},
	{.name = "adrfam", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "trsvcid", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "subnqn", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "hostnqn", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "hostaddr", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "hostsvcid", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "prchk_reftag", .type = RPC_OFF, .help = "Protection information"},
	{.name = "prchk_guard", .type = RPC_OFF, .help = "Protection information"},
	{.name = "hdgst", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "ddgst", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "multipath", .type = RPC_OFF, .help = "Several ways to one namespace"},
	{.name = "multipath_opts", .type = RPC_OFF, .help = "Several ways to one namespace"},
	{.name = "priority", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "fabrics_connect_timeout_us", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "ctrlr_loss_timeout_sec", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "reconnect_delay_sec", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "fast_io_fail_timeout_sec", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "psk", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "dhchap_key", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "dhchap_ctrlr_key", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "disable_sq_flow_control", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "num_io_queues", .type = RPC_OFF, .help = "There is one for each storage core"},
	{.name = "max_bdevs", .type = RPC_OFF, .help = "All are told"},
	{.name = "allow_unrecognized_csi", .type = RPC_OFF, .help = "Other command sets than NVM"},
};

static json_t *names_of(const struct nvme_controller *controller)
{
	const struct nvme_namespace *ns;
	json_t *names = json_array();
	TAILQ_FOREACH (ns, &controller->namespaces, link)
		json_array_append_new(names, json_string(ns->bdev.name));
	return names;
}

static void attached(void *arg, struct nvme_controller *controller, int error, const char *why)
{
	struct rpc_call *call = arg;
	if (error)
		rpc_error(call, error, "%s", why);
	else
		rpc_reply(call, names_of(controller));
}

static void handle_attach(struct rpc_call *call, const void *arg)
{
	const struct attach_params *params = arg;
	struct nvme_attach_options options = {.name = params->name, .address = params->traddr};
	bool path = params->traddr[0] == '/';
	if (path != !strcmp(params->trtype, "passthrough")) {
		rpc_param_error(call, "traddr", -EINVAL, "trtype %s: '%s' is no %s", params->trtype,
				params->traddr, path ? "PCI address" : "path");
		return;
	}
	nvme_attach(&options, attached, call);
}

/* ---- What names a controller ---- */

struct name_params {
	const char *name;
};

/* The parameter of those that are about one. */
#define NAME_OF_CONTROLLER(params)                                                                 \
	{.name = "name",                                                                           \
	 .type = RPC_STRING,                                                                       \
	 .offset = offsetof(params, name),                                                         \
	 .required = true,                                                                         \
	 .min = 1,                                                                                 \
	 .max = NVME_CONTROLLER_NAME_BYTES - 1,                                                    \
	 .help = "Name of the controller"}

static const struct rpc_param name_params[] = {
	NAME_OF_CONTROLLER(struct name_params),
};

static const struct rpc_param some_name_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct name_params, name),
	 .min = 1,
	 .max = NVME_CONTROLLER_NAME_BYTES - 1,
	 .help = "Name of the controller; left out, all of them"},
};

/* NULL after answering -ENODEV. */
static struct nvme_controller *find(struct rpc_call *call, const char *name)
{
	struct nvme_controller *controller = nvme_controller_find(name);
	if (!controller)
		rpc_param_error(call, "name", -ENODEV, "there is no controller named %s", name);
	return controller;
}

/* ---- bdev_nvme_detach_controller ---- */

struct detach_params {
	const char *name;
	const char *trtype;
	const char *traddr;
};

static const struct rpc_param detach_params[] = {
	NAME_OF_CONTROLLER(struct detach_params),
	{.name = "trtype",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct detach_params, trtype),
	 .values = trtypes,
	 .help = "Only if it is attached this way"},
	{.name = "traddr",
	 .type = RPC_STRING,
	 .offset = offsetof(struct detach_params, traddr),
	 .min = 1,
	 .max = NVME_ADDRESS_BYTES - 1,
	 .help = "Only if it is the one at this address"},
	{.name = "adrfam", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "trsvcid", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "subnqn", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "hostaddr", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "hostsvcid", .type = RPC_OFF, .help = "Of fabrics"},
};

static void detached(void *arg, int error)
{
	struct rpc_call *call = arg;
	const struct detach_params *params = rpc_params(call);
	if (error)
		rpc_error(call, error, "controller %s is being detached already", params->name);
	else
		rpc_reply(call, NULL);
}

static void handle_detach(struct rpc_call *call, const void *arg)
{
	const struct detach_params *params = arg;
	struct nvme_controller *controller = find(call, params->name);
	char full[NVME_ADDRESS_BYTES];
	if (!controller)
		return;
	if (params->trtype && strcasecmp(params->trtype, controller->transport->name))
		rpc_param_error(call, "trtype", -ENODEV, "controller %s is attached by %s",
				params->name, controller->transport->name);
	else if (params->traddr &&
		 strcmp(nvme_address_full(params->traddr, full), controller->address))
		rpc_param_error(call, "traddr", -ENODEV, "controller %s is at %s", params->name,
				controller->address);
	else
		nvme_detach(controller, detached, call);
}

/* ---- bdev_nvme_get_controllers ---- */

static void add_identity(const struct nvme_controller *controller, json_t *object)
{
	const struct nvme_identify_controller *identify = &controller->identify;
	json_object_set_new(object, "model_number",
			    nvme_text(identify->model, sizeof(identify->model)));
	json_object_set_new(object, "serial_number",
			    nvme_text(identify->serial, sizeof(identify->serial)));
	json_object_set_new(object, "firmware_revision",
			    nvme_text(identify->firmware, sizeof(identify->firmware)));
}

static json_t *describe(const struct nvme_controller *controller)
{
	const struct nvme_identify_controller *identify = &controller->identify;
	json_t *object = json_object(), *path = json_object(), *paths = json_array();
	json_object_set_new(path, "state",
			    json_string(controller->gone      ? "removed"
					: controller->leaving ? "deleting"
							      : "enabled"));
	json_object_set_new(path, "trid",
			    json_pack("{s:s, s:s}", "trtype", controller->transport->name, "traddr",
				      controller->address));
	json_object_set_new(path, "cntlid", json_integer(identify->cntlid));
	json_array_append_new(paths, path);
	json_object_set_new(object, "name", json_string(controller->name));
	json_object_set_new(object, "ctrlrs", paths);
	json_object_set_new(object, "vendor_id", json_sprintf("0x%04x", identify->vid));
	add_identity(controller, object);
	json_object_set_new(object, "bdevs", names_of(controller));
	if (controller->transport->dump)
		controller->transport->dump(controller, object);
	return object;
}

static void handle_get(struct rpc_call *call, const void *arg)
{
	const struct name_params *params = arg;
	struct nvme_controller *controller;
	json_t *list;
	if (params->name) {
		controller = find(call, params->name);
		if (controller)
			rpc_reply(call, json_pack("[o]", describe(controller)));
		return;
	}
	list = json_array();
	for (controller = nvme_controller_first(); controller;
	     controller = nvme_controller_next(controller))
		json_array_append_new(list, describe(controller));
	rpc_reply(call, list);
}

/* ---- bdev_nvme_get_controller_health_info ---- */

enum { KELVIN_OFFSET = 273 };

/* A 128-bit counter; beyond 63 bits of it a real number. */
static json_t *big(const uint64_t value[2])
{
	if (!value[1] && value[0] <= INT64_MAX)
		return json_integer((json_int_t)value[0]);
	return json_real((double)value[1] * 18446744073709551616.0 + (double)value[0]);
}

/* Added to the object. */
static void health_of(const struct nvme_health_log *log, json_t *health)
{
	int kelvin = log->temperature[0] | log->temperature[1] << 8;
	json_object_set_new(health, "critical_warning", json_integer(log->critical_warning));
	json_object_set_new(health, "temperature_celsius", json_integer(kelvin - KELVIN_OFFSET));
	json_object_set_new(health, "available_spare_percentage",
			    json_integer(log->available_spare));
	json_object_set_new(health, "available_spare_threshold_percentage",
			    json_integer(log->spare_threshold));
	json_object_set_new(health, "percentage_used", json_integer(log->percentage_used));
	json_object_set_new(health, "data_units_read", big(log->data_units_read));
	json_object_set_new(health, "data_units_written", big(log->data_units_written));
	json_object_set_new(health, "host_read_commands", big(log->host_reads));
	json_object_set_new(health, "host_write_commands", big(log->host_writes));
	json_object_set_new(health, "controller_busy_time", big(log->busy_minutes));
	json_object_set_new(health, "power_cycles", big(log->power_cycles));
	json_object_set_new(health, "power_on_hours", big(log->power_on_hours));
	json_object_set_new(health, "unsafe_shutdowns", big(log->unsafe_shutdowns));
	json_object_set_new(health, "media_errors", big(log->media_errors));
	json_object_set_new(health, "num_err_log_entries", big(log->error_log_entries));
	json_object_set_new(health, "warning_temperature_time_minutes",
			    json_integer(log->warning_minutes));
	json_object_set_new(health, "critical_composite_temperature_time_minutes",
			    json_integer(log->critical_minutes));
}

static void health_told(void *arg, int status, const void *data)
{
	struct rpc_call *call = arg;
	const struct name_params *params = rpc_params(call);
	struct nvme_health_log log;
	if (status) {
		rpc_error(call, nvme_status_errno(status), "controller %s: %s", params->name,
			  nvme_status_text(status));
		return;
	}
	memcpy(&log, data, sizeof(log));
	json_t *health = json_object();
	/* it may be leaving, and another one have its name soon */
	const struct nvme_controller *controller = nvme_controller_find(params->name);
	if (controller) {
		add_identity(controller, health);
		json_object_set_new(health, "traddr", json_string(controller->address));
	}
	health_of(&log, health);
	rpc_reply(call, health);
}

static void handle_health(struct rpc_call *call, const void *arg)
{
	const struct name_params *params = arg;
	struct nvme_controller *controller = find(call, params->name);
	struct nvme_sqe sqe = {
		.opcode = NVME_ADMIN_GET_LOG_PAGE,
		.nsid = NVME_ALL_NAMESPACES,
		/* which page, and how many words of it, less one */
		.cdw10 = NVME_LOG_HEALTH | (sizeof(struct nvme_health_log) / 4 - 1) << 16,
	};
	if (controller)
		nvme_controller_ask(controller, &sqe, sizeof(struct nvme_health_log), health_told,
				    call);
}

/* ---- bdev_nvme_reset_controller ---- */

static const struct rpc_param reset_params[] = {
	NAME_OF_CONTROLLER(struct name_params),
	{.name = "cntlid", .type = RPC_OFF, .help = "Several ways to one namespace"},
};

static void was_reset(void *arg, int error)
{
	struct rpc_call *call = arg;
	const struct name_params *params = rpc_params(call);
	if (error)
		rpc_error(call, error, "controller %s can not be reset: %s", params->name,
			  strerror(-error));
	else
		rpc_reply(call, NULL);
}

static void handle_reset(struct rpc_call *call, const void *arg)
{
	const struct name_params *params = arg;
	struct nvme_controller *controller = find(call, params->name);
	if (!controller)
		return;
	int error = controller->transport->reset
			    ? controller->transport->reset(controller, was_reset, call)
			    : -EOPNOTSUPP;
	if (error)
		was_reset(call, error);
}

/* ---- bdev_nvme_rescan_controller ---- */

static void rescanned(void *arg, int error)
{
	struct rpc_call *call = arg;
	const struct name_params *params = rpc_params(call);
	struct nvme_controller *controller = nvme_controller_find(params->name);
	if (!controller)
		error = -ENODEV;
	if (error)
		rpc_error(call, error, "controller %s: its namespaces can not be looked at: %s",
			  params->name, strerror(-error));
	else
		rpc_reply(call, names_of(controller));
}

static void handle_rescan(struct rpc_call *call, const void *arg)
{
	const struct name_params *params = arg;
	struct nvme_controller *controller = find(call, params->name);
	if (controller)
		nvme_rescan(controller, rescanned, call);
}

/* ---- bdev_nvme_set_options ---- */

struct option_params {
	const char *action_on_timeout;
	uint64_t timeout_us;
	uint64_t timeout_admin_us;
	bool sgl;
	bool has_timeout, has_timeout_admin, has_sgl;
	bool whatever; /* Pollux does it in any case */
};

static const char *const timeout_actions[] = {
	[NVME_TIMEOUT_NONE] = "none",
	[NVME_TIMEOUT_RESET] = "reset",
	[NVME_TIMEOUT_ABORT] = "abort",
	NULL,
};

static const struct rpc_param option_params[] = {
	{.name = "action_on_timeout",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct option_params, action_on_timeout),
	 .values = timeout_actions,
	 .help = "About a command that takes too long. none: it is logged; reset: the controller is "
		 "reset; abort (at first): it is aborted, and the controller reset if that does not "
		 "help. PCIe only: passthrough leaves it to the kernel"},
	{.name = "timeout_us",
	 .type = RPC_U64,
	 .offset = offsetof(struct option_params, timeout_us),
	 .max = TIMEOUT_MAX_US,
	 .unit = "us",
	 .present_offset = offsetof(struct option_params, has_timeout),
	 .help = "How long an I/O command may take. At first 30 s, for passthrough what the kernel "
		 "has (nvme_core.io_timeout). 0: PCIe, for ever; passthrough, what the kernel has"},
	{.name = "timeout_admin_us",
	 .type = RPC_U64,
	 .offset = offsetof(struct option_params, timeout_admin_us),
	 .max = TIMEOUT_MAX_US,
	 .unit = "us",
	 .present_offset = offsetof(struct option_params, has_timeout_admin),
	 .help = "How long an admin command may take. At first, and with 0, 10 s; for passthrough "
		 "what the kernel has"},
	{.name = "sgl",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct option_params, sgl),
	 .present_offset = offsetof(struct option_params, has_sgl),
	 .help = "PCIe: describe payloads by scatter gather lists where the device takes them (at "
		 "first: true), else by pages"},
	{.name = "delay_cmd_submit",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct option_params, whatever),
	 .help = "SPDK's. Doorbells ring once a pass whatever is said here"},
	{.name = "enable_flush",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct option_params, whatever),
	 .help = "SPDK's. FLUSH reaches a device with a volatile write cache whatever is said here"},
	{.name = "nvme_error_stat",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct option_params, whatever),
	 .help = "SPDK's. Errors are counted whatever is said here (bdev_get_iostat)"},
	{.name = "generate_uuids", .type = RPC_OFF, .help = "UUIDs made of serial numbers"},
	{.name = "allow_accel_sequence", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "io_path_stat", .type = RPC_OFF, .help = "Several ways to one namespace"},
	{.name = "disable_auto_failback", .type = RPC_OFF, .help = "Several ways to one namespace"},
	{.name = "multipath_opts", .type = RPC_OFF, .help = "Several ways to one namespace"},
	{.name = "bdev_retry_count", .type = RPC_OFF, .help = "It is fixed"},
	{.name = "transport_retry_count", .type = RPC_OFF, .help = "It is fixed"},
	{.name = "nvme_adminq_poll_period_us", .type = RPC_OFF, .help = "It is fixed"},
	{.name = "nvme_ioq_poll_period_us", .type = RPC_OFF, .help = "Each pass polls"},
	{.name = "io_queue_requests", .type = RPC_OFF, .help = "It is fixed"},
	{.name = "ctrlr_loss_timeout_sec", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "reconnect_delay_sec", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "fast_io_fail_timeout_sec", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "keep_alive_timeout_ms", .type = RPC_OFF, .help = "Of fabrics"},
	{.name = "arbitration_burst", .type = RPC_OFF, .help = "Arbitration is round robin"},
	{.name = "low_priority_weight", .type = RPC_OFF, .help = "Arbitration is round robin"},
	{.name = "medium_priority_weight", .type = RPC_OFF, .help = "Arbitration is round robin"},
	{.name = "high_priority_weight", .type = RPC_OFF, .help = "Arbitration is round robin"},
};

static void handle_set_options(struct rpc_call *call, const void *arg)
{
	const struct option_params *params = arg;
	struct nvme_options options = nvme_options_get();
	for (uint8_t i = 0; params->action_on_timeout && timeout_actions[i]; i++) {
		if (!strcmp(params->action_on_timeout, timeout_actions[i]))
			options.action_on_timeout = i;
	}
	if (params->has_timeout) {
		options.timeout_us = params->timeout_us;
		options.timeout_is_set = params->timeout_us != 0;
	}
	if (params->has_timeout_admin) {
		uint64_t us = params->timeout_admin_us;
		options.timeout_admin_us = us ? us : NVME_TIMEOUT_ADMIN_US;
		options.timeout_admin_is_set = us != 0;
	}
	if (params->has_sgl)
		options.sgl = params->sgl;
	nvme_options_set(&options);
	rpc_reply(call, NULL);
}

/* ---- Methods ---- */

static const struct rpc_method methods[] = {
	{.name = "bdev_nvme_set_options",
	 .help = "Set what holds for NVMe controllers attached from then on; what is left out stays "
		 "as it is.",
	 .params = option_params,
	 .param_count = COUNT_OF(option_params),
	 .params_bytes = sizeof(struct option_params),
	 .handler = handle_set_options,
	 .result = "true."},
	{.name = "bdev_nvme_attach_controller",
	 .help = "Attach an NVMe controller; each of its namespaces becomes a bdev.",
	 .params = attach_params,
	 .param_count = COUNT_OF(attach_params),
	 .params_bytes = sizeof(struct attach_params),
	 .handler = handle_attach,
	 .result = "The names of the bdevs."},
	{.name = "bdev_nvme_detach_controller",
	 .help = "Remove a controller's bdevs, whoever uses them, and let go of the device.",
	 .params = detach_params,
	 .param_count = COUNT_OF(detach_params),
	 .params_bytes = sizeof(struct detach_params),
	 .handler = handle_detach,
	 .result = "true, when the device is free."},
	{.name = "bdev_nvme_get_controllers",
	 .help = "What is attached, and how.",
	 .params = some_name_params,
	 .param_count = COUNT_OF(some_name_params),
	 .params_bytes = sizeof(struct name_params),
	 .handler = handle_get,
	 .result = "An array of controllers."},
	{.name = "bdev_nvme_get_controller_health_info",
	 .help = "What the device tells of its health (SMART).",
	 .params = name_params,
	 .param_count = COUNT_OF(name_params),
	 .params_bytes = sizeof(struct name_params),
	 .handler = handle_health,
	 .result = "An object of figures; data units are thousands of 512 bytes."},
	{.name = "bdev_nvme_reset_controller",
	 .help = "Reset a controller; what is in flight is done again.",
	 .params = reset_params,
	 .param_count = COUNT_OF(reset_params),
	 .params_bytes = sizeof(struct name_params),
	 .handler = handle_reset,
	 .result = "true, when it works again; an error if it does not: its bdevs are removed then."},
	{.name = "bdev_nvme_rescan_controller",
	 .help = "Look at a controller's namespaces anew: bdevs get their size, or go with their "
		 "namespace; new namespaces become bdevs (PCIe). Devices that tell of changes need "
		 "no such call.",
	 .params = name_params,
	 .param_count = COUNT_OF(name_params),
	 .params_bytes = sizeof(struct name_params),
	 .handler = handle_rescan,
	 .result = "The names of the bdevs."},
};

const struct rpc_table bdev_nvme_rpc = {methods, COUNT_OF(methods)};

// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/json.h"

#include <cctype>
#include <json-c/json.h>
#include <memory>
#include <stdexcept>
#include <utility>

namespace support
{

namespace
{

void
require(bool holds, const std::string &wanted, const Json &json)
{
    if (!holds)
        throw std::runtime_error("json: not " + wanted + ": " + json.dump());
}

bool
is_blank(const std::string &text, size_t from)
{
    for (size_t i = from; i < text.size(); i++)
        if (!isspace(static_cast<unsigned char>(text[i])))
            return false;
    return true;
}

} // namespace

Json::Json(const Json &other) : object_(json_object_get(other.object_))
{
}

Json::Json(Json &&other) noexcept : object_(std::exchange(other.object_, nullptr))
{
}

Json &
Json::operator=(Json other) noexcept
{
    std::swap(object_, other.object_);
    return *this;
}

Json::~Json()
{
    json_object_put(object_);
}

Json
Json::share(json_object *borrowed)
{
    return Json(json_object_get(borrowed));
}

Json
Json::parse(const std::string &text)
{
    std::unique_ptr<json_tokener, decltype(&json_tokener_free)> tokener(json_tokener_new(),
                                                                        json_tokener_free);
    Json result(json_tokener_parse_ex(tokener.get(), text.data(), static_cast<int>(text.size())));
    json_tokener_error error = json_tokener_get_error(tokener.get());

    if (error != json_tokener_success || !is_blank(text, json_tokener_get_parse_end(tokener.get())))
        throw std::runtime_error("not one JSON document: '" + text + "'");
    return result;
}

bool
Json::is_null() const
{
    return object_ == nullptr;
}

bool
Json::is_array() const
{
    return json_object_is_type(object_, json_type_array);
}

bool
Json::is_object() const
{
    return json_object_is_type(object_, json_type_object);
}

bool
Json::has(const std::string &name) const
{
    return is_object() && json_object_object_get_ex(object_, name.c_str(), nullptr);
}

size_t
Json::size() const
{
    if (is_array())
        return json_object_array_length(object_);
    return is_object() ? static_cast<size_t>(json_object_object_length(object_)) : 0;
}

Json
Json::operator[](const std::string &name) const
{
    json_object *member = nullptr;

    require(is_object(), "an object with '" + name + "'", *this);
    json_object_object_get_ex(object_, name.c_str(), &member);
    return share(member);
}

Json
Json::operator[](const char *name) const
{
    return (*this)[std::string(name)];
}

Json
Json::operator[](size_t index) const
{
    require(is_array() && index < size(), "an array with item " + std::to_string(index), *this);
    return share(json_object_array_get_idx(object_, index));
}

std::vector<Json>
Json::items() const
{
    std::vector<Json> result;

    require(is_array(), "an array", *this);
    for (size_t i = 0; i < size(); i++)
        result.push_back((*this)[i]);
    return result;
}

std::vector<std::string>
Json::names() const
{
    std::vector<std::string> result;

    require(is_object(), "an object", *this);
    json_object_object_foreach(object_, name, value)
    {
        (void)value;
        result.emplace_back(name);
    }
    return result;
}

std::string
Json::text() const
{
    require(json_object_is_type(object_, json_type_string), "a string", *this);
    return {json_object_get_string(object_),
            static_cast<size_t>(json_object_get_string_len(object_))};
}

int64_t
Json::number() const
{
    require(json_object_is_type(object_, json_type_int), "an integer", *this);
    return json_object_get_int64(object_);
}

bool
Json::boolean() const
{
    require(json_object_is_type(object_, json_type_boolean), "a boolean", *this);
    return json_object_get_boolean(object_);
}

std::string
Json::dump() const
{
    return json_object_to_json_string_ext(object_,
                                          JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
}

std::string
json_quote(const std::string &text)
{
    std::unique_ptr<json_object, decltype(&json_object_put)> string(
        json_object_new_string_len(text.data(), static_cast<int>(text.size())), json_object_put);

    return json_object_to_json_string_ext(string.get(), JSON_C_TO_STRING_NOSLASHESCAPE);
}

} // namespace support
